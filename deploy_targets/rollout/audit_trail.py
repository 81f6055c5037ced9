"""The audit record outside of the state: in S3, and beside each rollout's charts in MLflow.

A piece of it is an object that is written once, `audit/<endpoint>/<chain>/<first>-<last>.jsonl`. Pieces may overlap, because a
process may die between the writing and the saving that it has written; `audit.read_chain` puts them together and sees
whether anything is missing or was changed. S3 is written first: it is the one that is read back.
"""

import json
from collections import defaultdict
from collections.abc import Sequence

from deploy_targets.rollout.journal import EXPERIMENT_PREFIX
from registry.record_store import RecordStore
from registry.release import ROLLOUT_TAG
from registry.tracking import Tracking

_FOLDER = "audit"
_DECISIONS_TAG = "shipway.decisions"
"""On the one run of an endpoint that holds what was decided outside of rollouts."""


class AuditTrail:
    """Writes out the record of one endpoint."""

    def __init__(self, records: RecordStore, tracking: Tracking, *, endpoint: str) -> None:
        """Nothing is contacted before the first line."""
        self._records = records
        self._tracking = tracking
        self.endpoint = endpoint

    def append(self, lines: tuple[str, ...]) -> None:
        """Keeps the lines, which follow one another, in S3.

        Raises:
            ArtifactStoreUnavailable: it is not known whether they are kept; the same lines, or more, may come again.
            IntegrityError: S3 holds something else under their name.
            NotFound: there is no such bucket.
        """
        self._records.put(f"{_FOLDER}/{self.endpoint}/{_name(lines)}", _joined(lines))

    def copy(self, lines: tuple[str, ...]) -> None:
        """Copies the lines into the MLflow runs of their rollouts.

        Raises:
            RegistryUnavailable: not all of it is copied; the same lines, or more, may come again.
        """
        by_rollout: defaultdict[str | None, list[str]] = defaultdict(list)
        for line in lines:
            by_rollout[json.loads(line)["rollout"]].append(line)
        for rollout, its in by_rollout.items():
            path = f"{_FOLDER}/{_name(its)}"
            self._tracking.log_bytes(self._run_of(rollout), _joined(its), path)

    def _run_of(self, rollout: str | None) -> str:
        """The rollout's own run; that of the endpoint's other decisions where there is none, or somebody deleted it."""
        experiment = self._tracking.experiment(EXPERIMENT_PREFIX + self.endpoint)
        if rollout is not None:
            found = self._tracking.find_run(experiment, tag=ROLLOUT_TAG, value=rollout)
            if found is not None:
                return found
        found = self._tracking.find_run(experiment, tag=_DECISIONS_TAG, value=self.endpoint)
        if found is not None:
            return found
        tags = {_DECISIONS_TAG: self.endpoint}
        return self._tracking.create_run(
            experiment_id=experiment, name="decisions outside of rollouts", tags=tags
        )


def read_lines(records: RecordStore, endpoint: str) -> tuple[str, ...]:
    """All the lines that S3 holds of an endpoint, pieces that overlap included."""
    pieces = records.read(f"{_FOLDER}/{endpoint}")
    return tuple(line for piece in pieces for line in piece.decode().splitlines())


def _name(lines: Sequence[str]) -> str:
    first, last = (json.loads(line) for line in (lines[0], lines[-1]))
    return f"{first['chain']}/{first['number']:08d}-{last['number']:08d}.jsonl"


def _joined(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()
