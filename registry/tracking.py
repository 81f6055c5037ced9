"""MLflow's runs: what pipelines and rollouts tell people. The only adapter for its tracking API.

`connect_mlflow` makes the one client that this adapter and `mlflow_registry` share. A run that is opened with `run` is
closed whatever happens: FINISHED, FAILED on an exception, KILLED on an interrupt.
"""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

from mlflow import MlflowClient, environment_variables
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from registry.errors import BadInput, RegistryUnavailable
from registry.in_time import InTime, Timely
from registry.mlflow_answers import NO_ANSWER, check_answer, present
from registry.release import ERROR_TAG
from registry.settings import RegistrySettings

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

_MAX_PARAM_CHARACTERS = 6_000
_MAX_TAG_CHARACTERS = 8_000
_MAX_DATASET_NAME = 500
"""MLflow cuts beyond these; cut here, so that what is written is what is read back."""
_PATIENCE = 2
"""Times the timeouts of all its attempts: what a whole call may take, pauses between attempts included."""
_CALLS, _UPLOADS = 32, 8
"""At the same time. Guesses, above what a controller's eight workers need, and below what chokes an MLflow of one worker."""


def connect_mlflow(settings: RegistrySettings) -> MlflowClient:
    """A client whose calls end in bounded time; MLflow's own defaults block for minutes when the server is away.

    An answer that drips in ends by a TimeoutError (see `in_time`).

    Raises:
        BadInput: MLflow knows no such kind of address.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    # A proxy may ask us to come again in an hour, and the client would sleep until then.
    os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        client = MlflowClient(
            tracking_uri=settings.tracking_uri, registry_uri=settings.tracking_uri
        )
    except MlflowException as error:
        message = f"MLFLOW_TRACKING_URI cannot be used ({str(error)[:300].strip()}). Set it to the server's http address."
        raise BadInput(message) from error
    in_time = InTime(limit_s=_call_limit_s(), places=_CALLS)
    return cast("MlflowClient", Timely(client, in_time))


def _call_limit_s() -> float:
    """By the timeouts that are in force: the operator may have set others."""
    variables: Any = environment_variables
    attempts = variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() + 1
    return float(_PATIENCE * variables.MLFLOW_HTTP_REQUEST_TIMEOUT.get() * attempts)


class Tracking:
    """One MLflow server's experiments and runs. Every method raises `RegistryUnavailable` when it gives no answer, or nonsense."""

    def __init__(self, client: MlflowClient) -> None:
        """`client` brings its own timeouts."""
        self._client: Any = client
        self._uploads = InTime(limit_s=_call_limit_s(), places=_UPLOADS)

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._client.tracking_uri)

    def experiment(self, name: str) -> str:
        """The id of the experiment `name`, which is created where it is missing."""
        with _answering(f"the experiment {name}"):
            found = self._client.get_experiment_by_name(name)
            if found is None:
                return present("experiment id", self._client.create_experiment(name))
            check_answer("the experiment", asked=name, got=found.name)
            return present("experiment id", found.experiment_id)

    def experiment_of(self, run_id: str) -> str:
        """The id of the experiment that a run belongs to."""
        with _answering(f"the run {run_id}"):
            return present("experiment id", self._run(run_id).info.experiment_id)

    @contextmanager
    def run(
        self,
        *,
        experiment_id: str,
        name: str,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> Generator[str]:
        """A run, new or (with `run_id`) resumed, that is closed at the end of the block; gives its id."""
        if run_id is None:
            parent = {} if parent_run_id is None else {"mlflow.parentRunId": parent_run_id}
            run_id = self.create_run(
                experiment_id=experiment_id, name=name, tags={**(tags or {}), **parent}
            )
        elif tags:
            self.set_tags(run_id, tags)
        try:
            yield run_id
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            self._close_failed(run_id, error, status="KILLED" if interrupted else "FAILED")
            raise
        self.finish(run_id, status="FINISHED")

    def _close_failed(self, run_id: str, error: BaseException, *, status: RunStatus) -> None:
        """Closes the run after `error`, which matters more than that MLflow could not be told."""
        try:
            self.set_tags(run_id, {ERROR_TAG: f"{type(error).__name__}: {error}"})
            self.finish(run_id, status=status)
        except RegistryUnavailable as silence:
            error.add_note(f"The run {run_id} could not be marked {status} either: {silence}")

    def create_run(self, *, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
        """The id of a new run in state RUNNING."""
        with _answering("a new run"):
            run = self._client.create_run(experiment_id, tags=dict(tags), run_name=name)
            return present("run id", run.info.run_id)

    def find_run(self, experiment_id: str, *, tag: str, value: str) -> str | None:
        """The id of the newest run whose `tag` is `value`, or None."""
        found = self.search(experiment_id, f"tags.`{tag}` = '{value}'", limit=1)
        return found[0]["run_id"] if found else None

    def search(self, experiment_id: str, query: str, *, limit: int) -> tuple[dict[str, str], ...]:
        """The newest runs that fit MLflow's filter `query`: their tags, `run_id`, `status` and `start_time` (ms)."""
        with _answering("the runs"):
            runs = self._client.search_runs(
                [experiment_id], query, max_results=limit, order_by=["attributes.start_time DESC"]
            )
            return tuple(
                {
                    **{str(key): str(value) for key, value in run.data.tags.items()},
                    "run_id": present("run id", run.info.run_id),
                    "status": str(run.info.status),
                    "start_time": str(run.info.start_time),
                }
                for run in runs
            )

    def finish(self, run_id: str, *, status: RunStatus) -> None:
        """Closes the run."""
        with _answering(f"the run {run_id}"):
            self._client.set_terminated(run_id, status)

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Writes parameters, cut to what MLflow keeps."""
        with _answering(f"the run {run_id}"):
            entries = [Param(key, str(v)[:_MAX_PARAM_CHARACTERS]) for key, v in params.items()]
            self._client.log_batch(run_id, params=entries)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Writes tags, cut to what MLflow keeps."""
        with _answering(f"the run {run_id}"):
            entries = [RunTag(key, value[:_MAX_TAG_CHARACTERS]) for key, value in tags.items()]
            self._client.log_batch(run_id, tags=entries)

    def log_metrics(
        self,
        run_id: str,
        values: Mapping[str, float],
        *,
        step: int = 0,
        at: datetime | None = None,
    ) -> None:
        """Writes one value of each metric at `step`, all in one request."""
        moment = int((at or datetime.now().astimezone()).timestamp() * 1000)
        with _answering(f"the run {run_id}"):
            entries = [Metric(key, float(v), moment, step) for key, v in values.items()]
            self._client.log_batch(run_id, metrics=entries)

    def next_step(self, run_id: str, metric: str) -> int:
        """One more than the highest step at which `metric` was written; 0 when it never was."""
        with _answering(f"the run {run_id}"):
            history = self._client.get_metric_history(run_id, metric)
            return max((int(point.step) for point in history), default=-1) + 1

    def log_inputs(self, run_id: str, inputs: Mapping[str, tuple[str, str]]) -> None:
        """Notes what the run worked on: role (`base model`, `calibration`) to address and SHA-256 digest.

        MLflow shows them as the run's datasets, and keeps 36 characters of a digest: its first 32 digits.
        """
        with _answering(f"the run {run_id}"):
            entries = [
                DatasetInput(
                    Dataset(
                        name=address[-_MAX_DATASET_NAME:],
                        digest=digest.removeprefix("sha256:")[:32],
                        source_type="shipway",
                        source=json.dumps({"address": address, "digest": digest}),
                    ),
                    [InputTag("mlflow.data.context", role)],
                )
                for role, (address, digest) in inputs.items()
            ]
            self._client.log_inputs(run_id, entries)

    def log_model(
        self,
        run_id: str,
        *,
        name: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
    ) -> str:
        """Notes the model that the run made, as MLflow's own output of it; the id that MLflow gives it.

        Its bytes are not logged here: they lie where `artifact` in `params` says.
        """
        moment = int(datetime.now().astimezone().timestamp() * 1000)
        with _answering(f"the model of run {run_id}"):
            made = self._client.create_logged_model(
                self._run(run_id).info.experiment_id,
                name=name,
                source_run_id=run_id,
                params={key: str(v)[:_MAX_PARAM_CHARACTERS] for key, v in params.items()},
            )
            model_id = present("model id", made.model_id)
            self._client.log_outputs(run_id, [LoggedModelOutput(model_id=model_id, step=0)])
            entries = [
                Metric(key, float(v), moment, 0, model_id=model_id, run_id=run_id)
                for key, v in metrics.items()
            ]
            self._client.log_batch(run_id, metrics=entries)
            self._client.finalize_logged_model(model_id, "READY")
            return model_id

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Writes `text` as the artifact `path` of the run."""
        self.log_bytes(run_id, text.encode(), path)

    def log_bytes(self, run_id: str, content: bytes, path: str) -> None:
        """Writes `content` as the artifact `path` of the run."""
        folder, _, name = path.rpartition("/")
        with TemporaryDirectory() as temporary:
            file = Path(temporary) / name
            file.write_bytes(content)
            with _answering(f"the artifacts of run {run_id}"):
                # Not by the client's log_artifact, which takes an empty answer for a run whose artifacts are in this folder.
                where = present("artifact address", self._run(run_id).info.artifact_uri)
                self._uploads.call(self._upload, where, str(file), folder or None)

    def _upload(self, where: str, file: str, folder: str | None) -> None:
        repository: Any = get_artifact_repository(where, tracking_uri=self._client.tracking_uri)
        repository.log_artifact(file, folder)

    def artifact_address(self, run_id: str) -> str:
        """Where the run's artifacts lie: an `s3://` folder, or `mlflow-artifacts:/…` where MLflow's server hands them out."""
        with _answering(f"the run {run_id}"):
            return present("artifact address", self._run(run_id).info.artifact_uri)

    def list_artifacts(self, run_id: str, path: str) -> dict[str, int]:
        """The files at or below the artifact `path` of the run, by their path below it, with their sizes."""
        with _answering(f"the artifacts of run {run_id}"):
            folders, files = [path], dict[str, int]()
            while folders:
                for item in self._client.list_artifacts(run_id, folders.pop()):
                    if item.is_dir:
                        folders.append(str(item.path))
                    else:
                        files[str(item.path).removeprefix(f"{path}/")] = int(item.file_size or 0)
            return files

    def download_artifacts(self, run_id: str, path: str, into: Path) -> Path:
        """Where the artifact `path` of the run lies below `into`, now that it was copied there."""
        with _answering(f"the artifacts of run {run_id}"):
            return Path(self._client.download_artifacts(run_id, path, str(into)))

    def _run(self, run_id: str) -> Any:
        found = self._client.get_run(run_id)
        check_answer("the run", asked=run_id, got=found.info.run_id)
        return found


@contextmanager
def _answering(what: str) -> Generator[None]:
    """Turns what MLflow's client raises into ours."""
    try:
        yield
    except NO_ANSWER as error:
        told = f"{type(error).__name__}: {str(error)[:300]}"
        message = (
            f"MLflow did not give or take {what} ({told}). "
            "Is its server up, and MLFLOW_TRACKING_URI right?"
        )
        raise RegistryUnavailable(message) from error
