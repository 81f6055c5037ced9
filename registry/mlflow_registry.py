"""The registered models of MLflow: read what they ask for, write what is. The only adapter for its registry.

Every call is one or a few requests with bounded time and retries. Aliases are read from the registered model itself,
because `search_model_versions` returns none.
"""

import re
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, assert_never

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.errors import NotFound, RegistryUnavailable, WebhookRefused
from registry.mlflow_answers import NO_ANSWER, Nonsense, check_answer, present
from registry.promotion import (
    CHAMPION,
    MoveAlias,
    RegistryChange,
    RegistryFacts,
    StageTrigger,
    TagVersion,
    TransitionStage,
    Trigger,
)
from registry.release import ModelVersion

_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_IMPOSSIBLE = "INVALID_PARAMETER_VALUE"
_NOT_THERE = frozenset({_ABSENT, _IMPOSSIBLE})
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_BAD_HOST = "Invalid Host header"
_COPY = re.compile(r"models:/([^/]+)/(\d+)")
"""The source of a version that "Promote model" has copied. `models:/m-…` is a logged model of MLflow's, and no version."""
_MAX_COPIES = 10
"""How many "Promote model" copies in a row are followed to their origin; a longer chain is a loop."""
_NO_STAGE = "None"
_SETTLED_S = 600.0
"""How long what is told of a version that serves may be kept: its tags are an answer to people, and nothing is decided by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """One of MLflow's webhooks; its secret is nobody's to read."""

    name: str
    url: str
    events: tuple[str, ...]
    is_active: bool


class MlflowRegistry:
    """One MLflow server's model registry. Every method raises `RegistryUnavailable` when it gives no answer, or nonsense."""

    def __init__(
        self, client: MlflowClient, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`client` brings its own timeouts (see `tracking`); `clock` is in seconds."""
        self._client: Any = client
        self._clock = clock
        self._settled: dict[str, tuple[float, ModelVersion]] = {}
        """Of each model the version that serves, and when it was read."""

    def facts(self, model: str, trigger: Trigger, *, serving: str | None = None) -> RegistryFacts:
        """The aliases of `model`, and every version that an alias or a legacy stage names.

        A model that does not exist yet has no aliases and no versions. An alias whose version was deleted is in
        `aliases` and its version is not in `versions`.

        Aliases and stages are read anew each time, and so is every version but one: what is told of `serving`, where
        `champion` and no other alias names it, may be ten minutes old. Half of what a hundred endpoints at rest ask for.
        """
        try:
            registered = self._registered(model)
        except NotFound:
            return RegistryFacts(model=model, is_gone=True)
        aliases = _aliases_of(registered)
        # What came with the model, tags and all, is not asked for again: at rest the champion is often the newest version.
        latest = {str(version.version): version for version in registered.latest_versions}
        versions: dict[str, ModelVersion] = {}
        if isinstance(trigger, StageTrigger):
            found = self.versions(model)
            with _answering(f"the versions of {model}"):
                _check_stages(registered, found)
            versions = {v.version: v for v in found if v.stage != _NO_STAGE}
        for version in sorted(set(aliases.values()) - versions.keys()):
            by_name = [alias for alias, named in aliases.items() if named == version]
            is_settled = version == serving and by_name == [CHAMPION]
            kept = self._kept(model, version) if is_settled else None
            try:
                known = latest.get(version)
                versions[version] = kept or self._version(model, version, known, absent={_ABSENT})
            except NotFound:
                continue
            if is_settled and kept is None:
                self._settled[model] = (self._clock(), versions[version])
        return RegistryFacts(model=model, aliases=aliases, versions=versions)

    def _kept(self, model: str, version: str) -> ModelVersion | None:
        read_at, known = self._settled.get(model, (0.0, None))
        if known is None or known.version != version or self._clock() - read_at >= _SETTLED_S:
            return None
        return known

    def aliases(self, model: str) -> Mapping[str, str]:
        """Alias to version, as MLflow has it.

        Raises:
            NotFound: there is no such registered model.
        """
        return _aliases_of(self._registered(model))

    def version(self, model: str, version: str) -> ModelVersion:
        """One version of `model`.

        Raises:
            NotFound: it does not exist.
        """
        return self._version(model, version, None, absent=_NOT_THERE)

    def _registered(self, model: str) -> Any:
        """The registered model, whose name has come back: an empty answer would read as one without aliases."""
        with _answering(f"the registered model {model}", absent={_ABSENT}):
            found = self._client.get_registered_model(model)
            check_answer("the model", asked=model, got=found.name)
            for alias, version in dict(found.aliases).items():
                present("alias", alias)
                present("version of an alias", version)
        return found

    def _version(
        self, model: str, version: str, known: Any, *, absent: Collection[str]
    ) -> ModelVersion:
        """That version, which is asked for where it is not `known` already."""
        with _answering(f"version {version} of the registered model {model}", absent=absent):
            found = self._get(model, version) if known is None else known
            check_answer("the version", asked=model, got=found.name)
            return self._read(found)

    def _get(self, model: str, version: str) -> Any:
        found = self._client.get_model_version(model, version)
        check_answer("the version", asked=(model, version), got=(found.name, str(found.version)))
        return found

    def versions(self, model: str) -> tuple[ModelVersion, ...]:
        """All versions of `model`, the newest first; none when the model does not exist."""
        # MLflow's filters know no escapes, but both quotes; a name that has both cannot be asked for.
        quote = '"' if "'" in model else "'"
        with _answering(f"the versions of {model}", absent=()):
            found = self._client.search_model_versions(f"name = {quote}{model}{quote}")
            for version in found:
                check_answer("a version of the model", asked=model, got=version.name)
            read = [self._read(version) for version in found]
            return tuple(sorted(read, key=lambda version: int(version.version), reverse=True))

    def models(self) -> tuple[str, ...]:
        """The names of all registered models."""
        names: list[str] = []
        token: str | None = None
        while token != "":
            with _answering("the registered models"):
                page = self._client.search_registered_models(max_results=1000, page_token=token)
            names += [str(model.name) for model in page]
            token = page.token or ""
        return tuple(names)

    def write(self, model: str, change: RegistryChange) -> None:
        """Makes one change. Repeating it is harmless; an alias that somebody moved meanwhile is left as it is.

        What clears a request is only done when it was seen: the answer of an alias move is empty, as is that of a proxy
        that lost it, and a request taken for cleared that still stands would be served as a new one.

        Raises:
            NotFound: the model or the version is gone.
        """
        self._settled.pop(model, None)
        if isinstance(change, MoveAlias) and self._was_moved(model, change):
            return
        with _answering(f"what is to be changed of {model} ({change})"):
            match change:
                case MoveAlias(alias=alias, version=None):
                    self._client.delete_registered_model_alias(model, alias)
                case MoveAlias(alias=alias, version=version):
                    self._client.set_registered_model_alias(model, alias, version)
                case TransitionStage(version=version, stage=stage):
                    moved = self._client.transition_model_version_stage(model, version, stage)
                    made = (moved.name, str(moved.version), str(moved.current_stage))
                    check_answer("the stage", asked=(model, version, stage), got=made)
                case TagVersion(version=version, tags=tags):
                    for key, value in tags.items():
                        self._client.set_model_version_tag(model, version, key, value)
                case _:
                    assert_never(change)
        if isinstance(change, MoveAlias):
            seen = self.aliases(model).get(change.alias)
            if seen != change.version:
                message = (
                    f"MLflow did not move {change.alias} of {model} to {change.version}: it still names {seen}, or somebody "
                    "has just moved it. The next look at the endpoint sees."
                )
                raise RegistryUnavailable(message)

    def _was_moved(self, model: str, change: MoveAlias) -> bool:
        """Whether the alias names another version than when `change` was decided."""
        return change.was is not None and self.aliases(model).get(change.alias, "") != change.was

    def register(
        self,
        model: str,
        *,
        source: str,
        run_id: str | None,
        tags: Mapping[str, str],
        description: str = "",
    ) -> tuple[str, bool]:
        """The number of the version with this source and run, and whether it is new; all its tags come with it.

        `description` is for people: the UI shows it beside the version.

        The registered model is made where it is missing. A version that the same run registered already is found
        again instead of getting a twin, so that the call may be repeated.
        """
        with _answering(f"the registered model {model}"):
            try:
                self._client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != _EXISTS:
                    raise
        for known in self.versions(model):
            if run_id is not None and (known.source, known.run_id) == (source, run_id):
                return known.version, False
        with _answering(f"a new version of {model}"):
            made = self._client.create_model_version(
                model,
                source=source,
                run_id=run_id,
                tags=dict(tags),
                description=description,
                await_creation_for=0,
            )
            return present("version", made.version), True

    def delete_version(self, model: str, version: str) -> None:
        """Deletes one version from the registry; its bytes in S3 are not touched.

        Raises:
            NotFound: it does not exist.
        """
        with _answering(f"version {version} of the registered model {model}"):
            self._client.delete_model_version(model, version)

    def webhooks(self) -> tuple[Webhook, ...]:
        """All that are registered, whoever did."""
        return tuple(
            Webhook(
                name=str(hook.name),
                url=str(hook.url),
                events=tuple(sorted(str(event) for event in hook.events)),
                is_active=bool(hook.status.is_active()),
            )
            for hook in self._webhooks()
        )

    def ensure_webhook(self, *, name: str, url: str, secret: str, events: Iterable[str]) -> None:
        """Has MLflow call `url` on `events`, signed with `secret`: one hook of that name, which keeps its id.

        Raises:
            WebhookRefused: MLflow does not call such an address.
        """
        known = [hook for hook in self._webhooks() if hook.name == name]
        wanted = {"name": name, "url": url, "events": list(events), "secret": secret}
        with _answering("the webhooks"):
            try:
                if known:
                    self._client.update_webhook(known[0].webhook_id, **wanted, status="ACTIVE")
                else:
                    self._client.create_webhook(**wanted)
            except MlflowException as error:
                if error.error_code != _IMPOSSIBLE:
                    raise
                raise WebhookRefused(str(error)[:300]) from error
            for twin in known[1:]:
                self._client.delete_webhook(twin.webhook_id)

    def remove_webhook(self, name: str) -> bool:
        """Whether there was one of that name; now there is none."""
        known = [hook for hook in self._webhooks() if hook.name == name]
        with _answering("the webhooks"):
            for hook in known:
                self._client.delete_webhook(hook.webhook_id)
        return bool(known)

    def try_webhook(self, name: str) -> str:
        """What keeps MLflow from calling that hook, in its own words; empty when a call of its went through.

        Raises:
            NotFound: there is none of that name.
        """
        known = [hook for hook in self._webhooks() if hook.name == name]
        if not known:
            message = f"MLflow has no webhook named {name}. `shipway webhook install` makes it."
            raise NotFound(message)
        with _answering("the webhooks"):
            tried = self._client.test_webhook(known[0].webhook_id)
        if tried.success:
            return ""
        return str(tried.error_message or f"status {tried.response_status}: {tried.response_body}")

    def _webhooks(self) -> list[Any]:
        hooks: list[Any] = []
        token: str | None = None
        while token != "":
            with _answering("the webhooks"):
                page = self._client.list_webhooks(max_results=100, page_token=token)
            hooks += page
            token = page.token or ""
        return hooks

    def _read(self, version: Any) -> ModelVersion:
        """The version in our terms. A "Promote model" copy takes source and tags from its origin.

        Where that is gone the source stays as it is, which the gate refuses: one copy must not hide all the versions.
        """
        origin = version
        for _ in range(_MAX_COPIES):
            named = _COPY.fullmatch(str(origin.source))
            if named is None:
                break
            try:
                origin = self._get(named[1], named[2])
            except MlflowException as error:
                if error.error_code != _ABSENT:
                    raise
                break
        return ModelVersion(
            model=str(version.name),
            version=present("version", version.version),
            source=present("source", origin.source),
            stage=str(version.current_stage or _NO_STAGE),
            run_id=origin.run_id or None,
            updated_ms=int(version.last_updated_timestamp or 0),
            tags={**dict(origin.tags), **dict(version.tags)},
        )


def _aliases_of(registered: Any) -> dict[str, str]:
    return {str(alias): str(version) for alias, version in dict(registered.aliases).items()}


def _check_stages(registered: Any, versions: tuple[ModelVersion, ...]) -> None:
    """Raises Nonsense when the model names a version in a stage that is not among its versions in that stage.

    An empty list is a good answer for a model without versions, and what a proxy says that has lost it. A version that
    is moved between the two reads looks the same, and is read at the next look.
    """
    stages = {version.version: version.stage for version in versions}
    for latest in registered.latest_versions:
        stage = str(latest.current_stage or _NO_STAGE)
        if stage != _NO_STAGE and stages.get(str(latest.version)) != stage:
            message = f"v{latest.version} is in {stage}, and not so among the model's versions"
            raise Nonsense(message)


@contextmanager
def _answering(what: str, *, absent: Collection[str] = _NOT_THERE) -> Generator[None]:
    """Turns what MLflow's client raises into ours; `absent` are the codes that say that there is no such thing."""
    try:
        yield
    except NO_ANSWER as error:
        code = error.error_code if isinstance(error, MlflowException) else type(error).__name__
        if code in absent:
            message = (
                f"MLflow does not have {what} ({str(error)[:300]}). Look it up in the MLflow UI."
            )
            raise NotFound(message) from error
        advice = "Is its server up? `shipway status` tells."
        if _BAD_HOST in str(error):
            advice = "Name the host by which it is called in `mlflow server --allowed-hosts`."
        message = f"MLflow did not give {what} ({code}: {str(error)[:300]}). {advice}"
        raise RegistryUnavailable(message) from error
