"""What `release` and `retrain` share: from an unquantized checkpoint to a registered version and its gate's answer."""

from collections.abc import Mapping

from pipelines.datasets import DataFolder
from pipelines.evaluate.stage import Evaluation, evaluate
from pipelines.quantize.__main__ import quantize
from pipelines.quantize.recipes import Recipe
from pipelines.session import Model, Session
from pipelines.version import VERSION_TAG, version
from registry.errors import GateFailed
from registry.gate import Margins


def make_version(  # noqa: PLR0913 - each is a decision of the caller's
    session: Session,
    *,
    name: str,
    base: Model,
    recipe: Recipe,
    data: DataFolder,
    margins: Margins,
    lineage: Mapping[str, str],
) -> str:
    """The number of the version of `name` that `recipe` makes of `base`, which may be promoted.

    `lineage` are tags of the version that say where `base` came from.

    Raises:
        GateFailed: the version is registered, with the reasons, and may not be promoted.
        ShipwayError: as for each stage; nothing is registered then.
    """
    model = quantize(session, model=base, recipe=recipe, data=data)
    evaluation, _ = evaluate(session, base=base, model=model, data=data, margins=margins, name=name)
    return register(
        session, name=name, model=model, evaluation=evaluation, recipe=recipe, lineage=lineage
    )


def register(
    session: Session,
    *,
    name: str,
    model: Model,
    evaluation: Evaluation,
    recipe: Recipe,
    lineage: Mapping[str, str],
) -> str:
    """The number of the version of `name` that is `model`, which may be promoted.

    Raises:
        GateFailed: the version is registered, with the reasons, and may not be promoted.
        ShipwayError: nothing is registered then.
    """
    number = version(
        session, name=name, model=model, evaluation=evaluation, recipe=recipe, lineage=lineage
    )
    session.tracking.set_tags(session.run_id, {VERSION_TAG: number})
    if not evaluation.gate.passed:
        message = (
            f"{name} v{number} is registered but did not pass its gate, so it cannot be promoted: "
            f"{'; '.join(evaluation.gate.reasons)}. Use a gentler recipe, or wider margins if they are wrong."
        )
        raise GateFailed(message)
    return number
