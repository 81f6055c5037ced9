"""A job and its MLflow run, from their beginning to their end.

Stages close their runs themselves, and `mlflow run` on the cluster closes what a killed stage left open. What dies with all
its processes closes nothing: whoever looks next, here, sees by Ray's word that the job has ended, and closes the run.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.backend.ray_jobs import Job, RayJobs, Status
from pipelines.backend.request import STOP_WAIT_S, job_id_of
from registry.errors import JobsUnavailable
from registry.release import ERROR_TAG

if TYPE_CHECKING:
    from registry.tracking import RunStatus, Tracking

JOB_TAG, ADDRESS_TAG = "shipway.ray.job", "shipway.ray.address"
REQUEST_TAG = "shipway.ray.request"
SENT_TAG = "shipway.ray.sent"
"""Set once the cluster has the job."""
_ENDED: "dict[Status, RunStatus]" = {
    Status.SUCCEEDED: "FINISHED",
    Status.FAILED: "FAILED",
    Status.STOPPED: "KILLED",
}
_LOOK_S = 10
"""Without a word from the job, this often it is asked whether it is still there."""
_POLL_S = 0.3
_AGAIN_S = 2
_MOST_SAID = 600
"""Characters of Ray's reason, after which the log follows that the run need not have."""
_MOST = 100
"""Runs of one address that are looked at, or children of one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """One of them."""

    jobs: RayJobs
    tracking: "Tracking"
    experiment_id: str
    run_id: str
    write: Callable[[str], None]
    """Takes what the job says."""
    patience_s: float = 300
    """A cluster that does not answer is asked again for so long."""

    @property
    def job_id(self) -> str:
        """Ray's."""
        return job_id_of(self.run_id)

    def look(self) -> Job | None:
        """The job as it is now; None where the cluster knows none."""
        return self.jobs.find(self.job_id)

    def follow(self) -> Job | None:
        """Writes what the job says until it has ended, and closes its run; None where it is gone from the cluster.

        Raises:
            JobsUnavailable: the cluster did not answer for all its patience. The job may go on.
            RegistryUnavailable: MLflow did not.
        """
        job = asyncio.run(self._follow())
        self.close(job)
        return job

    def cancel(self) -> None:
        """Has the job end, waits until it has, and closes its run.

        Raises:
            JobsUnavailable: the cluster did not answer, or the job goes on all the same.
            RegistryUnavailable: MLflow did not answer.
        """
        job = self.look()
        if job is not None and not job.status.is_final:
            self.jobs.stop(self.job_id)
        limit = time.monotonic() + 2 * STOP_WAIT_S
        while job is not None and not job.status.is_final:
            if time.monotonic() > limit:
                message = f"The job {self.job_id} was told to end, and has not within {2 * STOP_WAIT_S} s. Look at Ray's dashboard."
                raise JobsUnavailable(message)
            time.sleep(_POLL_S)
            job = self.look()
        self.close(job)

    def close(self, job: Job | None) -> None:
        """Closes the run, and runs within it, where the ended `job` has left them open."""
        status = "KILLED" if job is None else _ENDED[job.status]
        reason = (
            "the job is gone from the cluster, which was started anew or has forgotten it"
            if job is None
            else f"the job is {job.status.lower()}: {job.message.strip()[:_MOST_SAID]}"
        )
        # Those within come first, so that whoever dies here leaves the outer one to be found.
        for query in (
            f"tags.`mlflow.parentRunId` = '{self.run_id}'",
            f"attributes.run_id = '{self.run_id}'",
        ):
            is_open = f"{query} and attributes.status = 'RUNNING'"
            for run in self.tracking.search(self.experiment_id, is_open, limit=_MOST):
                if status != "FINISHED":
                    self.tracking.set_tags(run["run_id"], {ERROR_TAG: f"Ray: {reason}"})
                self.tracking.finish(run["run_id"], status=status)

    async def _follow(self) -> Job | None:
        written, silent_since = 0, None
        while True:
            try:
                written = await self._show(written)
                job = await asyncio.to_thread(self.look)
                if job is None:
                    return None
                if job.status.is_final:
                    await asyncio.to_thread(self._show_rest, written)
                    return job
                silent_since = None
            except JobsUnavailable as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > self.patience_s:
                    error.add_note(
                        f"The job {self.job_id} may go on: the same command again finds it."
                    )
                    raise
            await asyncio.sleep(_AGAIN_S)

    async def _show(self, written: int) -> int:
        """Writes what the job says beyond `written` characters; how many there are when it or the connection ends."""
        seen = 0
        said = self.jobs.tail(self.job_id)
        following = asyncio.ensure_future(anext(said))
        try:
            while True:
                done, _ = await asyncio.wait({following}, timeout=_LOOK_S)
                if not done:
                    job = await asyncio.to_thread(self.look)
                    if job is None or job.status.is_final:
                        return written
                    continue
                try:
                    text = following.result()
                except (StopAsyncIteration, JobsUnavailable):
                    # Whether the job has ended, too, is asked next.
                    return written
                self.write(text[max(0, written - seen) :])
                seen += len(text)
                written = max(written, seen)
                following = asyncio.ensure_future(anext(said))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await said.aclose()

    def _show_rest(self, written: int) -> None:
        """What it said last, which the connection may not have brought any more."""
        try:
            self.write(self.jobs.log(self.job_id)[written:])
        except JobsUnavailable as error:
            self.write(f"\nthe end of the job's log cannot be had: {error}\n")


def settle(
    jobs: RayJobs, tracking: "Tracking", *, experiment_id: str, address: str, digest: str
) -> str | None:
    """The run of the same request that is under way, if there is one.

    Runs whose job has ended, or is gone from the cluster, are closed on the way. One that was made for the same request and
    whose job was never sent is the one to go on with.
    """
    query = f"tags.`{ADDRESS_TAG}` = '{address}' and attributes.status = 'RUNNING'"
    under_way: str | None = None
    for run in tracking.search(experiment_id, query, limit=_MOST):
        run_id = run["run_id"]
        one = Submitted(
            jobs=jobs,
            tracking=tracking,
            experiment_id=experiment_id,
            run_id=run_id,
            write=lambda _: None,
        )
        job = one.look()
        is_same = run.get(REQUEST_TAG) == digest
        if job is not None and not job.status.is_final:
            under_way = run_id if is_same and under_way is None else under_way
        elif job is not None or SENT_TAG in run:
            one.close(job)
        elif is_same and under_way is None:
            under_way = run_id
    return under_way
