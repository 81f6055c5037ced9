"""The jobs of a Ray cluster, over its dashboard's REST API. The only importer of Ray in pipelines.

Ray's client knows no time limits and raises what it happens to meet; here every call ends in time, and by an error of ours.
"""

import re
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipelines.backend.request import Submission
from registry.errors import BadInput, JobsUnavailable
from registry.in_time import InTime, Timely

_CALL_S, _SUBMIT_S, _PLACES = 30, 600, 4
"""The whole project goes with a submission."""
_STATUS_CODE = re.compile(r"status code (\d{3})")
_NOT_FOUND = "404"


class Status(StrEnum):
    """Ray's own words."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self not in {Status.PENDING, Status.RUNNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What Ray says of a job."""

    status: Status
    message: str
    """Why it failed, or what it waits for."""


class RayJobs:
    """One cluster's. Every method raises `JobsUnavailable` when it gives no answer."""

    def __init__(self, address: str, *, token: str | None, ca_file: Path | None) -> None:
        """Asks the cluster for its version.

        Raises:
            BadInput: Ray's client is not installed here.
        """
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            message = f"Ray's client is not installed here ({error}). Install shipway with the extra `ray`."
            raise BadInput(message) from error
        self._address = address
        client: Any = JobSubmissionClient
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connecting = InTime(limit_s=_CALL_S, places=1)
        with self._answering():
            self._client: Any = connecting.call(
                client, address, headers=headers, verify=True if ca_file is None else str(ca_file)
            )
        self._calls: Any = Timely(self._client, InTime(limit_s=_CALL_S, places=_PLACES))
        self._sending: Any = Timely(self._client, InTime(limit_s=_SUBMIT_S, places=1))

    def find(self, job_id: str) -> Job | None:
        """The job, or None where the cluster knows none of that id."""
        with self._answering():
            try:
                details = self._calls.get_job_info(job_id)
            except RuntimeError as error:
                if _is_not_found(error):
                    return None
                raise
        return Job(status=Status(str(details.status)), message=str(details.message or ""))

    def submit(self, job: Submission) -> bool:
        """Starts the job; False where the cluster has one of that id already, whoever sent it.

        Raises:
            JobsUnavailable: it did not answer, or refused, and has no such job.
        """
        try:
            with self._answering():
                self._sending.submit_job(
                    entrypoint=job.command,
                    submission_id=job.job_id,
                    runtime_env={
                        "working_dir": str(job.package),
                        "env_vars": dict(job.environment),
                    },
                    metadata=dict(job.metadata),
                    entrypoint_num_cpus=job.cpus,
                    entrypoint_num_gpus=job.gpus,
                    entrypoint_memory=job.memory_bytes,
                )
        except JobsUnavailable:
            # A lost answer and an id that is taken look alike: what counts is whether it is there.
            if self.find(job.job_id) is None:
                raise
            return False
        return True

    def stop(self, job_id: str) -> None:
        """Asks the job to end. It gets a SIGTERM, and a SIGKILL where that does not do."""
        with self._answering():
            self._calls.stop_job(job_id)

    def log(self, job_id: str) -> str:
        """All that it has said."""
        with self._answering():
            return str(self._calls.get_job_logs(job_id))

    async def tail(self, job_id: str) -> AsyncGenerator[str]:
        """What it has said and says, from the beginning, until it has ended or the connection has."""
        import aiohttp

        try:
            async for text in self._client.tail_job_logs(job_id):
                yield text
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise self._unavailable(error) from error

    @contextmanager
    def _answering(self) -> Generator[None]:
        import requests
        from ray.exceptions import RayError

        failures = (requests.RequestException, RayError, OSError, RuntimeError, ValueError)
        try:
            yield
        except failures as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> JobsUnavailable:
        told = f"{type(error).__name__}: {str(error)[:600].strip()}"
        message = (
            f"Ray at {self._address} did not do what it was asked ({told}). Is this its dashboard's address, is it up, and is "
            "RAY_AUTH_TOKEN its token?"
        )
        return JobsUnavailable(message)


def _is_not_found(error: Exception) -> bool:
    found = _STATUS_CODE.search(str(error))
    return found is not None and found[1] == _NOT_FOUND
