"""The door by which MLflow comes in: the project backend `shipway-ray`, found by its entry point `mlflow.project_backend`.

MLflow's command line does not wait for backends of others, so that following the job is done here; its Python API waits for
what `run` returns. Errors of ours become MLflow's ExecutionException, whose text the command line prints, and ends with 1.
"""

# MLflow's abstract methods are not annotated, and are read as returning None.
# pyright: reportIncompatibleMethodOverride=false

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import RunStatus
from mlflow.exceptions import ExecutionException
from mlflow.projects import utils
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun

from pipelines.backend.package import Package, pack_project
from pipelines.backend.ray_jobs import RayJobs, Status
from pipelines.backend.request import (
    BackendConfig,
    Request,
    choose_address,
    choose_tracking_uri,
    parse_config,
    plan_submission,
)
from pipelines.backend.settings import RayClientSettings
from pipelines.backend.submitted import (
    ADDRESS_TAG,
    JOB_TAG,
    REQUEST_TAG,
    SENT_TAG,
    Submitted,
    settle,
)
from pipelines.progress import Announcer
from registry.errors import BadInput, ShipwayError
from registry.settings import RegistrySettings
from registry.tracking import Tracking, connect_mlflow

NAME = "shipway-ray"
_MIB = 1 << 20
_MLFLOWS_OWN = {
    utils.PROJECT_ENV_MANAGER, utils.PROJECT_SYNCHRONOUS, utils.PROJECT_DOCKER_ARGS, utils.PROJECT_STORAGE_DIR,
    utils.PROJECT_BUILD_IMAGE, utils.PROJECT_DOCKER_AUTH,
}  # fmt: skip
"""What MLflow puts into a backend's configuration beside what the user wrote."""
_STATUS = {
    Status.PENDING: RunStatus.SCHEDULED,
    Status.RUNNING: RunStatus.RUNNING,
    Status.SUCCEEDED: RunStatus.FINISHED,
    Status.FAILED: RunStatus.FAILED,
    Status.STOPPED: RunStatus.KILLED,
}


class RayRun(SubmittedRun):
    """A job as MLflow knows it."""

    def __init__(self, submitted: Submitted) -> None:
        """The job is there already."""
        self._submitted = submitted

    @property
    def run_id(self) -> str:
        """The MLflow run's."""
        return self._submitted.run_id

    def wait(self) -> bool:
        """Follows the job to its end; whether it succeeded."""
        with _as_mlflows():
            job = self._submitted.follow()
        return job is not None and job.status is Status.SUCCEEDED

    def get_status(self) -> str:
        """In MLflow's words; a job that is gone from the cluster was killed with it."""
        with _as_mlflows():
            job = self._submitted.look()
        return RunStatus.to_string(RunStatus.KILLED if job is None else _STATUS[job.status])

    def cancel(self) -> None:
        """Has the job end, and waits until it has."""
        with _as_mlflows():
            self._submitted.cancel()


class RayBackend(AbstractBackend):
    """Sends an entry point to a Ray cluster."""

    def run(  # noqa: PLR0913, PLR0917 - MLflow's own signature
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, Any] | None,
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> RayRun:
        """The job, sent now or found under way; it has ended where MLflow does not wait and the user wants to see it.

        Raises:
            ExecutionException: it could not be sent, or was followed and failed.
        """
        parameters = {name: str(value) for name, value in (params or {}).items()}
        with _as_mlflows(), TemporaryDirectory() as folder:
            config = parse_config(_users_own(backend_config))
            settings = RayClientSettings()
            address = choose_address(config, settings.ray_address)
            uri = choose_tracking_uri(config, tracking_uri)
            token = settings.ray_token
            jobs = RayJobs(
                address,
                token=None if token is None else token.get_secret_value(),
                ca_file=config.ca_file,
            )
            mlflows: Any = utils
            work_dir = mlflows.fetch_and_validate_project(
                project_uri, version, entry_point, parameters
            )
            package = pack_project(
                Path(work_dir), Path(folder), exclude=config.exclude, max_mib=config.max_package_mib
            )
            request = Request(
                entry_point=entry_point,
                parameters=parameters,
                package_digest=package.digest,
                address=address,
                tracking_uri=uri,
            )
            tracking = Tracking(connect_mlflow(RegistrySettings(tracking_uri=tracking_uri)))
            run_id = settings.run_id or settle(
                jobs,
                tracking,
                experiment_id=experiment_id,
                address=address,
                digest=request.digest,
            )
            if run_id is None:
                made = mlflows.get_or_create_run(
                    None, project_uri, experiment_id, work_dir, version, entry_point, parameters
                )
                run_id = str(made.info.run_id)
            submitted = Submitted(
                jobs=jobs,
                tracking=tracking,
                experiment_id=tracking.experiment_of(run_id),
                run_id=run_id,
                write=_write,
            )
            _send(submitted, request, config, package)
        run = RayRun(submitted)
        if not config.follow:
            _say(f"not followed: see {address}, or the MLflow run {run_id}")
        elif not backend_config.get(utils.PROJECT_SYNCHRONOUS):
            _see_through(run)
        return run


def _send(submitted: Submitted, request: Request, config: BackendConfig, package: Package) -> None:
    """Sends the job, unless the cluster has it."""
    run_id, job_id, tracking = submitted.run_id, submitted.job_id, submitted.tracking
    tags = {ADDRESS_TAG: request.address, JOB_TAG: job_id, REQUEST_TAG: request.digest}
    tracking.set_tags(run_id, tags)
    job = plan_submission(request, config, run_id=run_id, package=package.file, here=os.environ)
    if submitted.look() is None and submitted.jobs.submit(job):
        size = f"{package.files} files, {package.size_bytes / _MIB:.1f} MiB"
        _say(f"job {job_id} was sent to {request.address} with the project ({size})")
    else:
        _say(f"job {job_id} is at {request.address} already: this goes on with it")
    tracking.set_tags(run_id, {SENT_TAG: datetime.now(UTC).isoformat(timespec="seconds")})


def _users_own(given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what MLflow put into it.

    Raises:
        BadInput: the user asked MLflow for an environment that no job gets.
    """
    manager = given.get(utils.PROJECT_ENV_MANAGER)
    if manager not in {None, "local"} or given.get(utils.PROJECT_DOCKER_ARGS):
        message = (
            "A job runs in the environment that the cluster's image has: leave out --docker-args, and --env-manager or say "
            "--env-manager local."
        )
        raise BadInput(message)
    return {name: value for name, value in given.items() if name not in _MLFLOWS_OWN}


def _see_through(run: RayRun) -> None:
    """Follows the run to its end; Ctrl-C has the job end."""
    try:
        succeeded = run.wait()
    except KeyboardInterrupt:
        _say(f"cancelling run {run.run_id}")
        run.cancel()
        raise
    if not succeeded:
        message = f"Run (ID '{run.run_id}') is {run.get_status()}; its job's log is above"
        raise ExecutionException(message)
    _say(f"run {run.run_id} is finished")


def _say(text: str) -> None:
    Announcer().say("ray", text)


def _write(text: str) -> None:
    print(text, end="", flush=True)  # noqa: T201 - the job's own words, for the user's terminal


@contextmanager
def _as_mlflows() -> Generator[None]:
    try:
        yield
    except ShipwayError as error:
        raise ExecutionException(error.in_full()) from error
