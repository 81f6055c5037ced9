"""One call of an entry point: its clients, its MLflow run, and the stages within it.

A stage is an MLflow run around a piece of work of the workbench. Alone it is the run that `mlflow run` made; within
`release` it is a child of that. The clients are built here and nowhere else in pipelines.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import typer
from pydantic import ValidationError

from pipelines.progress import Announcer
from pipelines.settings import PipelineSettings
from pipelines.workbench import Finished, Product, Workbench, is_disk_full
from registry.artifact_store import ArtifactStore, connect_store
from registry.digests import describe_folder
from registry.errors import BadInput, RegistryUnavailable, ShipwayError, SourceInvalid
from registry.release import ArtifactManifest, Digest
from registry.s3 import connect_s3

if TYPE_CHECKING:
    from registry.mlflow_registry import MlflowRegistry
    from registry.signing import SigningKey
    from registry.tracking import Tracking

STAGE_TAG = "shipway.stage"
REUSED_TAG = "shipway.reused_from"
OUTPUT_TAG = "shipway.output"
_MIB = 1 << 20
_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S
_TALKATIVE = (
    "lm_eval", "mlflow", "tokenicer", "torch.utils._pytree", "torchao", "transformers",
)  # fmt: skip


class Switch(StrEnum):
    """A yes or no as `mlflow run -P name=true` can say it."""

    TRUE = "true"
    FALSE = "false"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A checkpoint on this machine, and the names of its bytes."""

    folder: Path
    manifest: ArtifactManifest

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The checkpoint in `folder`.

        Raises:
            SourceInvalid: there is no such folder.
        """
        if not folder.is_dir():
            message = (
                f"There is no model folder at {folder}. Give the one that an earlier stage printed."
            )
            raise SourceInvalid(message)
        return cls(folder=folder, manifest=describe_folder(folder))

    @property
    def digest(self) -> Digest:
        """As the artifact store says it."""
        return self.manifest.digest

    @property
    def size_mib(self) -> float:
        """In mebibytes."""
        return self.manifest.size_bytes / _MIB


@dataclass(slots=True, kw_only=True)
class Stage:
    """A stage under way, in a run of its own."""

    name: str
    run_id: str
    parent_id: str | None
    """The run around it, where there is one."""
    _tracking: "Tracking"
    _bench: Workbench
    _announcer: Announcer
    experiment_id: str
    is_trial: bool = False
    """Whether the run around it has several of these, so that what each says stays on its own."""
    work_s: float = 0.0
    """What the finished work took when it was done."""
    _is_new: bool = False

    @property
    def is_reused(self) -> bool:
        """Whether all that was done here had been done before."""
        return self.work_s > 0 and not self._is_new

    @property
    def _told(self) -> str | None:
        """The run around it, where that is told what the stage says."""
        return None if self.is_trial else self.parent_id

    def do(self, inputs: Mapping[str, Any], work: Callable[[Path], Product]) -> Finished:
        """The finished work on `inputs`, done now or before; its metrics and reports are in the run afterwards."""
        run_ids = (self.run_id,) if self.parent_id is None else (self.run_id, self.parent_id)
        finished = self._bench.do(
            self.name, inputs, work, run_ids=run_ids, on_abandoned=self._close_abandoned
        )
        self.work_s += finished.seconds
        if finished.is_reused:
            self.set_tags(
                {
                    REUSED_TAG: finished.run_id,
                    # MLflow shows this tag as the run's description, and follows the link.
                    "mlflow.note.content": f"Reused from [an earlier run](#/experiments/{self.experiment_id}/runs/{finished.run_id}).",
                }
            )
        else:
            self._is_new = True
        self.log_metrics({**finished.product.metrics, "work_s": self.work_s})
        for report in finished.product.reports:
            content = (finished.folder / report).read_bytes()
            self._tracking.log_bytes(self.run_id, content, Path(report).name)
        return finished

    def log_params(self, params: Mapping[str, object]) -> None:
        """Writes parameters on the stage's run, and on the one around it: that is the run which a version names."""
        for run_id in (self.run_id, self._told):
            if run_id is not None:
                self._tracking.log_params(run_id, params)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Writes metrics on the stage's run, and on the one around it with the stage in front: `quantize/loss_mean`."""
        self._tracking.log_metrics(self.run_id, metrics)
        if self._told is not None:
            named = {f"{self.name}/{name}": value for name, value in metrics.items()}
            self._tracking.log_metrics(self._told, named)

    def log_inputs(self, inputs: Mapping[str, tuple[str, str]]) -> None:
        """Notes what the stage worked on: role to address and digest."""
        self._tracking.log_inputs(self.run_id, inputs)

    def log_text(self, text: str, path: str) -> None:
        """Writes an artifact on the stage's run."""
        self._tracking.log_text(self.run_id, text, path)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Writes tags on the stage's run."""
        self._tracking.set_tags(self.run_id, tags)

    def hand_over(self, model: Model) -> None:
        """Notes the checkpoint that the stage made."""
        self.set_tags({OUTPUT_TAG: model.digest})

    def _close_abandoned(self, run_id: str) -> None:
        """Marks the run of a process that died in the middle of this work, which would be RUNNING for ever."""
        try:
            self._tracking.finish(run_id, status="KILLED")
        except RegistryUnavailable:
            self._announcer.say(self.name, f"the earlier run {run_id} is gone from MLflow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The clients of one call and the run that it is."""

    home: Path
    registry: "MlflowRegistry"
    store: ArtifactStore
    connect_s3: Callable[[], Any]
    """S3's own client, for what is no artifact of ours."""
    tracking: "Tracking"
    bench: Workbench
    signing_key: "SigningKey | None"
    run_id: str
    experiment_id: str
    price_per_hour: float | None
    is_chain: bool
    """Whether stages are children of the run, rather than the run itself."""
    is_trial: bool = False
    """Whether stages are attempts of which one is kept: MLflow lets no parameter of the run around them be changed."""
    announcer: Announcer = field(default_factory=Announcer)
    origins: dict[Digest, Mapping[str, str]] = field(
        default_factory=dict[Digest, Mapping[str, str]]
    )
    """Where the checkpoints of this call came from: the same bytes may have come from elsewhere before."""

    @classmethod
    @contextmanager
    def open(cls, name: str, *, fresh: bool, is_chain: bool = False) -> Generator[Self]:
        """A session for the entry point `name`, whose run is closed FINISHED or FAILED at the end."""
        from registry.mlflow_registry import MlflowRegistry
        from registry.settings import RegistrySettings
        from registry.signing import SigningKey
        from registry.tracking import Tracking, connect_mlflow

        settings, where = PipelineSettings(), RegistrySettings()
        # Before any work, which a key that cannot sign would lose.
        key_file = settings.signing_key_file
        signing_key = None if key_file is None else SigningKey.read(key_file)
        bench = Workbench(settings.home, fresh=fresh)
        bench.sweep(unused_since=time.time() - settings.keep_work_days * _DAY_S)
        client = connect_mlflow(where)
        tracking = Tracking(client)
        experiment = (
            tracking.experiment(settings.experiment)
            if settings.run_id is None
            else tracking.experiment_of(settings.run_id)
        )
        with tracking.run(
            experiment_id=experiment, name=name, run_id=settings.run_id, tags={STAGE_TAG: name}
        ) as run_id:
            yield cls(
                home=settings.home,
                registry=MlflowRegistry(client),
                store=connect_store(where),
                connect_s3=partial(connect_s3, where),
                tracking=tracking,
                bench=bench,
                signing_key=signing_key,
                run_id=run_id,
                experiment_id=experiment,
                price_per_hour=settings.price_per_hour,
                is_chain=is_chain,
            )

    @contextmanager
    def stage(self, name: str, title: str) -> Generator[Stage]:
        """The stage `name`: says that it begins, with `title`, and how long it took."""
        self.announcer.say(name, title)
        began = time.monotonic()
        if self.is_chain:
            with self.tracking.run(
                experiment_id=self.experiment_id,
                name=name,
                parent_run_id=self.run_id,
                tags={STAGE_TAG: name},
            ) as run_id:
                stage = self._stage(name, run_id)
                yield stage
                self._log_cost(stage, time.monotonic() - began)
        else:
            stage = self._stage(name, self.run_id)
            yield stage
            self._log_cost(stage, time.monotonic() - began)
        seconds = time.monotonic() - began
        note = ", reused from an earlier run" if stage.is_reused else ""
        self.announcer.say(name, f"done in {seconds:.1f} s{note}")

    def _log_cost(self, stage: Stage, seconds: float) -> None:
        """What the stage took this time, and what that costs where a price is set."""
        price = (
            {} if self.price_per_hour is None else {"cost": self.price_per_hour * seconds / _HOUR_S}
        )
        stage.log_metrics({"stage_s": seconds, **price})

    def _stage(self, name: str, run_id: str) -> Stage:
        return Stage(
            name=name,
            run_id=run_id,
            parent_id=self.run_id if self.is_chain else None,
            _tracking=self.tracking,
            _bench=self.bench,
            _announcer=self.announcer,
            experiment_id=self.experiment_id,
            is_trial=self.is_trial,
        )


def run_entry_point(entry: Callable[..., None], *, reads_sources: bool = False) -> None:
    """Runs `entry` as a command. Exit codes: 0 done, 1 failed or refused, 2 wrong usage or bad input.

    `reads_sources`: the tags of a version may name a hub, besides the arguments.
    """
    _prepare_process(may_ask_hub=reads_sources or any("hub://" in word for word in sys.argv))
    try:
        typer.run(entry)
    except ShipwayError as error:
        sys.stdout.flush()
        typer.echo(f"error: {error.in_full()}", err=True)
        sys.exit(2 if isinstance(error, BadInput) else 1)
    except ValidationError as error:
        if error.title not in {PipelineSettings.__name__, "RegistrySettings"}:
            raise
        for fault in error.errors(include_input=False, include_url=False):
            typer.echo(f"error: {fault['loc'][0]} cannot be used: {fault['msg']}.", err=True)
        sys.exit(2)
    except OSError as error:
        if not is_disk_full(error):
            raise
        sys.stdout.flush()
        where = error.filename or PipelineSettings().home
        typer.echo(f"error: The disk is full: {where}. Make room there, and run again.", err=True)
        sys.exit(1)


def _prepare_process(*, may_ask_hub: bool) -> None:
    """Settings that libraries read from the environment when they are imported, and a SIGTERM that cleans up."""
    defaults = {
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GPTQMODEL_CPU_WORKERS": "2",  # its default on two cores is one, and it needs two
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "LOGBAR_ANIMATION": "0",
    }
    if not sys.stderr.isatty():
        defaults |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if not may_ask_hub:
        defaults["HF_HUB_OFFLINE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
