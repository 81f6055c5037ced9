"""Whether a retraining would make what is there already, so that a night without new data makes no new version. Pure.

What counts is what a person gives: parent, data, adapter, recipe, margins and texts. Newer code or libraries alone are no
reason to train again; `-P fresh=true` is for that.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from registry.errors import IntegrityError
from registry.gate import Gate, Margins
from registry.promotion import scorecard_of
from registry.release import (
    ADAPTER_TAG,
    GATE_TAG,
    PARENT_TAG,
    RECIPE_TAG,
    TRAINING_DATA_TAG,
    Digest,
    ModelVersion,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a retraining is given."""

    parent: ModelVersion
    is_whatever_serves: bool
    """Whether the parent was named by its alias: one that was trained on the data itself is not trained on them twice."""
    data: Digest
    adapter: str
    recipe: str
    """Both as a version's tags have them."""
    margins: Margins
    evaluation: str
    """Names the texts and tasks, as scorecards do."""


def find_made(versions: Iterable[ModelVersion], wanted: Wanted) -> ModelVersion | None:
    """The version that is what is wanted; None where it is yet to be made."""
    parent = wanted.parent
    if wanted.is_whatever_serves and _learned(parent, wanted):
        return parent
    address = f"models:/{parent.model}/{parent.version}"
    return next(
        (
            version
            for version in versions
            if version.tags.get(PARENT_TAG) == address
            and version.tags.get(RECIPE_TAG) == wanted.recipe
            and _learned(version, wanted)
            and _was_judged_alike(version, wanted)
        ),
        None,
    )


def _learned(version: ModelVersion, wanted: Wanted) -> bool:
    try:
        data = json.loads(version.tags[TRAINING_DATA_TAG])["digest"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return False
    return data == wanted.data and version.tags.get(ADAPTER_TAG) == wanted.adapter


def _was_judged_alike(version: ModelVersion, wanted: Wanted) -> bool:
    try:
        gate = Gate.from_document(json.loads(version.tags[GATE_TAG]))
        card = scorecard_of(version)
    except (KeyError, ValueError, RecursionError, IntegrityError):
        return False
    return gate.margins == wanted.margins and card.evaluation == wanted.evaluation
