"""`mlflow deployments … -t shipway`: the commands of `shipway` under MLflow's names, over the same functions.

A deployment is an endpoint of the endpoint file. `create` and `update` both do what `shipway promote` does: they ask for a
version, and the controller rolls it out or refuses it. MLflow wants one client class here, `run_local` and `target_help`.
"""

# MLflow's abstract methods are not annotated, and are read as returning None.
# pyright: reportIncompatibleMethodOverride=false

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn, cast

import httpx2
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy_targets.compose import compose
from deploy_targets.control_plane import ControlPlane, ControlPlaneSettings, Place
from deploy_targets.endpoint import Endpoint
from deploy_targets.operate import request_promotion
from deploy_targets.routing.traffic import VERSION_HEADER
from registry.errors import BadInput, NotFound, PromotionRefused, ShipwayError, Unavailable

_SCHEME = "models:/"
_PATIENCE_S = 10
"""The guard's own time limit says more than ours would, so ours is longer by this."""
_CODES = (
    (NotFound, "RESOURCE_DOES_NOT_EXIST"),
    (BadInput, "INVALID_PARAMETER_VALUE"),
    (PromotionRefused, "INVALID_STATE"),
    (Unavailable, "TEMPORARILY_UNAVAILABLE"),
)
"""MLflow's word for an error of ours; the first that fits."""
_GUARD_CODES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.FORBIDDEN: "PERMISSION_DENIED",
    HTTPStatus.TOO_MANY_REQUESTS: "REQUEST_LIMIT_EXCEEDED",
}
_HELP = """\
Shipway: each endpoint of the endpoint file is a deployment, and serves one registered model.

  mlflow deployments list    -t shipway
  mlflow deployments create  -t shipway --name chat -m models:/smollm2/7
  mlflow deployments update  -t shipway --name chat -m models:/smollm2/7
  mlflow deployments get     -t shipway --name chat
  mlflow deployments predict -t shipway --name chat -I request.json

create and update ask for a version, as `shipway promote chat 7` and the alias in the MLflow UI do. They return at once: the
controller checks the gate, warms the version up, and moves the traffic by steps, or back. `get` says how far it is, and
`shipway watch chat` follows it. Only models:/NAME/VERSION names a version that has been evaluated.
predict sends an OpenAI chat request, or one prompt for each row of a table with one column, through the guard.
run-local asks for a version on the local stack, which `shipway up` starts.
delete is refused: what takes an endpoint out of service is the endpoint file.

There are no -C options, no --flavor and no --endpoint: the endpoint file says what they would. The target is `shipway`, with
nothing after it. The environment says the rest:
  SHIPWAY_ENDPOINTS       the endpoint file; endpoints.yaml by default
  SHIPWAY_CONTROL_PLANE   local or kubernetes: whose endpoints are meant
  SHIPWAY_API_KEY         a key that the guard lets in, for predict
  SHIPWAY_GUARD_URL       where the guards of a cluster are, for predict
On the local stack, `eval "$(shipway env)"` sets them.
"""


class DeploymentSettings(BaseSettings):
    """Environment variables with the prefix SHIPWAY_."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_", frozen=True, extra="ignore")

    endpoints: Path = Path("endpoints.yaml")
    """The endpoint file, where no --file names one; `mlflow deployments -t shipway` has no option for it."""
    api_key: SecretStr | None = None
    """With which `mlflow deployments predict` passes the guard."""


class ShipwayDeployments(BaseDeploymentClient):
    """The endpoints of one endpoint file. Every error is an MlflowException."""

    def __init__(
        self, target_uri: str, *, open_plane: Callable[[Path], ControlPlane] = compose
    ) -> None:
        """Nothing is contacted yet; MLflow gives `target_uri` alone."""
        super().__init__(target_uri)
        self._open = open_plane
        with _as_mlflow_says():
            if target_uri != "shipway":
                message = (
                    f"The target is `shipway`, not {target_uri!r}. SHIPWAY_ENDPOINTS names the endpoint file, and "
                    "SHIPWAY_CONTROL_PLANE where its controller is."
                )
                raise BadInput(message)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, str] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Asks for the version that `model_uri` names, and returns at once."""
        return self._ask(
            name, model_uri, {"--flavor": flavor, "-C": config, "--endpoint": endpoint}
        )

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, str] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """The same; MLflow's command line wants the flavor back."""
        return self._ask(
            name, model_uri, {"--flavor": flavor, "-C": config, "--endpoint": endpoint}
        )

    def delete_deployment(
        self,
        name: str,
        config: Mapping[str, str] | None = None,  # noqa: ARG002 - refused whatever it says
        endpoint: str | None = None,  # noqa: ARG002 - the same
    ) -> NoReturn:
        """Refused: no command may take an endpoint away from its clients."""
        with _as_mlflow_says():
            self._plane().file.named(name)
            message = (
                f"{name} is not deleted by a command: take it out of the endpoint file and start the controller anew, which "
                f"brings a rollout under way to its end and then looks after {name} no more. `shipway rollback {name}` ends a "
                "rollout alone."
            )
            raise PromotionRefused(message)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """The endpoints, as declared."""
        with _as_mlflow_says():
            _refuse_options({"--endpoint": endpoint})
            return [
                {"name": one.name, "model": one.model, "target": one.target.value}
                for one in self._plane().file.endpoints
            ]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Where the endpoint stands: what serves, the rollout under way, the traffic."""
        with _as_mlflow_says():
            _refuse_options({"--endpoint": endpoint})
            plane = self._plane()
            told = plane.status(plane.file.named(name)).to_json()
            return {"name": told.pop("endpoint"), **told}

    def predict(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,
    ) -> PredictionsResponse:
        """One answer's text for each request, with the version that gave it; `endpoint` is the same as the name."""
        with _as_mlflow_says():
            plane = self._plane()
            declared = plane.file.named(str(deployment_name or endpoint))
            guard = plane.guard_url(declared)
            key = DeploymentSettings().api_key
            headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
            timeout_s = declared.serving.timeout_s + _PATIENCE_S
            with httpx2.Client(base_url=guard, headers=headers, timeout=timeout_s) as http:
                answers = [_ask_guard(http, declared, one) for one in _requests(inputs)]
            return PredictionsResponse(
                predictions=[text for text, _ in answers], versions=[by for _, by in answers]
            )

    def _ask(
        self, name: str, model_uri: str | None, options: Mapping[str, object]
    ) -> dict[str, Any]:
        with _as_mlflow_says():
            _refuse_options(options)
            plane = self._plane()
            declared = plane.file.named(name)
            version = _version_of(declared, model_uri)
            told = request_promotion(plane.registry(), declared, version, dry_run=False)
            return {"name": name, "flavor": declared.engine.kind, "version": version, "told": told}

    def _plane(self) -> ControlPlane:
        return self._open(DeploymentSettings().endpoints)


def run_local(
    name: str,
    model_uri: str,
    flavor: str | None = None,
    config: Mapping[str, str] | None = None,
) -> None:
    """Asks for the version on the local stack, by the same rollout as anywhere."""
    with _as_mlflow_says():
        if ControlPlaneSettings().control_plane is not Place.LOCAL:
            message = (
                "SHIPWAY_CONTROL_PLANE says kubernetes, and run-local means the local stack. Unset it, or use `mlflow "
                "deployments create` for the cluster."
            )
            raise BadInput(message)
    ShipwayDeployments("shipway").create_deployment(name, model_uri, flavor, config)


def target_help() -> str:
    """What `mlflow deployments help -t shipway` prints."""
    return _HELP


@contextmanager
def _as_mlflow_says() -> Generator[None]:
    """Has errors of ours leave as MLflow's, with our message."""
    try:
        yield
    except ShipwayError as error:
        codes = (code for kind, code in _CODES if isinstance(error, kind))
        raise _mlflow_error(str(error), next(codes, "INTERNAL_ERROR")) from error


def _mlflow_error(message: str, code: str) -> MlflowException:
    from mlflow.protos import databricks_pb2

    return MlflowException(message, error_code=databricks_pb2.ErrorCode.Value(code))


def _refuse_options(options: Mapping[str, object]) -> None:
    given = [option for option, value in options.items() if value]
    if given:
        message = (
            f"Shipway takes no {given[0]} here: the endpoint file says how a model is served, and SHIPWAY_ENDPOINTS names it. "
            "`mlflow deployments help -t shipway` says more."
        )
        raise BadInput(message)


def _version_of(endpoint: Endpoint, uri: str | None) -> str:
    """The version that a model URI names.

    Raises:
        BadInput: it names none, or one of another model.
    """
    example = f"{_SCHEME}{endpoint.model}/7"
    model, _, version = str(uri).removeprefix(_SCHEME).rpartition("/")
    if uri is None or not uri.startswith(_SCHEME) or not model or not version.isdecimal():
        message = (
            f"{uri or 'An update without --model-uri'} names no registered version, and only those have been evaluated. "
            f"Register it with `mlflow run . -e release`, then name its version, like {example}."
        )
        raise BadInput(message)
    if model != endpoint.model:
        message = (
            f"{uri} is a version of {model}, and {endpoint.name} serves {endpoint.model}. Name a version of that, like "
            f"{example}; another model needs an endpoint of its own in the endpoint file."
        )
        raise BadInput(message)
    return version


def _requests(inputs: Any) -> list[dict[str, Any]]:
    """The chat requests that `inputs` amounts to.

    MLflow's command line reads any JSON as a table: a chat request with two messages comes as two rows, in which all that
    is not a message is repeated.

    Raises:
        BadInput: it is neither a chat request nor a table with one column of prompts.
    """
    if isinstance(inputs, Mapping):
        asked = [dict(cast("Mapping[str, Any]", inputs))]
    elif hasattr(inputs, "to_dict"):  # pandas comes with MLflow, and is nothing that we import
        asked = _requests_of(inputs.astype(object).to_dict("records"))
    else:
        asked = []
    if not asked or not all(isinstance(one.get("messages"), list) for one in asked):
        message = (
            'Give an OpenAI chat request, like {"messages": [{"role": "user", "content": "Hello"}]}, or a table with one '
            "column of prompts."
        )
        raise BadInput(message)
    if any(one.get("stream") for one in asked):
        message = "`mlflow deployments predict` waits for whole answers. Leave `stream` out, or call the guard itself."
        raise BadInput(message)
    return asked


def _requests_of(rows: list[dict[Any, Any]]) -> list[dict[str, Any]]:
    if rows and "messages" in rows[0]:
        if all(isinstance(row["messages"], list) for row in rows):
            return rows
        return [{**rows[0], "messages": [row["messages"] for row in rows]}]
    prompts = [list(row.values()) for row in rows]
    if not all(len(cells) == 1 and isinstance(cells[0], str) for cells in prompts):
        return []
    return [{"messages": [{"role": "user", "content": cells[0]}]} for cells in prompts]


def _ask_guard(
    http: httpx2.Client, endpoint: Endpoint, asked: Mapping[str, Any]
) -> tuple[str, str]:
    """The answer's text, and the version that gave it."""
    try:
        answer = http.post("/v1/chat/completions", json={**asked, "model": endpoint.name})
    except httpx2.HTTPError as error:
        message = f"The guard of {endpoint.name} at {http.base_url} does not answer ({type(error).__name__})."
        raise _mlflow_error(message, "TEMPORARILY_UNAVAILABLE") from error
    if answer.status_code != HTTPStatus.OK:
        code = _GUARD_CODES.get(answer.status_code)
        by_default = "INTERNAL_ERROR" if answer.is_server_error else "INVALID_PARAMETER_VALUE"
        message = f"The guard of {endpoint.name} answered {answer.status_code}: {answer.text[:500]}"
        raise _mlflow_error(message, code or by_default)
    try:
        text: Any = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        message = f"The guard of {endpoint.name} gave no chat completion: {answer.text[:500]}"
        raise _mlflow_error(message, "INTERNAL_ERROR") from error
    return str(text), answer.headers.get(VERSION_HEADER, "")
