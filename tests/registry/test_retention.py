"""What `gc` would delete, and above all what it would not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from registry.release import SOURCE_TAG, ModelVersion
from registry.retention import Garbage, Retention, plan_collection
from tests.builders import NOON, a_version

RULE = Retention(keep_last=2, keep_for=timedelta(days=30))
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


def old(version: str, **changes: object) -> ModelVersion:
    aged = replace(a_version(version), updated_ms=int(LONG_AGO.timestamp() * 1000))
    return replace(aged, **changes)  # type: ignore[arg-type]


def collect(
    *versions: ModelVersion,
    aliased: set[str] | None = None,
    in_use: set[str] | None = None,
    stored: dict[str, datetime] | None = None,
) -> Garbage:
    sources = {version.source: LONG_AGO for version in versions}
    return plan_collection(
        versions,
        aliased={("smollm2", version) for version in aliased or ()},
        in_use={("smollm2", version) for version in in_use or ()},
        stored=sources if stored is None else stored,
        rule=RULE,
        now=NOON,
    )


def test_an_old_version_that_nothing_names_goes_with_its_bytes() -> None:
    garbage = collect(old("1"), old("2"), old("3"))
    assert [version.version for version in garbage.versions] == ["1"]
    assert garbage.sources == ("s3://shipway/models/1",)


@pytest.mark.parametrize("why", ["aliased", "in_use"])
def test_what_an_alias_or_a_rollout_names_stays(why: str) -> None:
    garbage = collect(old("1"), old("2"), old("3"), **{why: {"1"}})  # type: ignore[arg-type]
    assert garbage == Garbage(versions=(), sources=())


@pytest.mark.parametrize(
    "kept", [{"stage": "Production"}, {"updated_ms": int(NOON.timestamp() * 1000)}]
)
def test_what_has_a_stage_or_is_young_stays(kept: dict[str, object]) -> None:
    assert collect(old("1", **kept), old("2"), old("3")).versions == ()


def test_bytes_that_another_version_shares_stay() -> None:
    shared = old("3").source
    garbage = collect(old("1", source=shared), old("2"), old("3"))
    assert [version.version for version in garbage.versions] == ["1"]
    assert garbage.sources == ()


def test_the_origin_of_a_copy_in_another_model_stays_as_long_as_the_copy() -> None:
    """What a copy is, is read through the version that it was made of."""
    origin = old("1")
    copy = replace(old("1"), model="production")
    young_copy = replace(copy, updated_ms=int(NOON.timestamp() * 1000))
    others = (old("2"), old("3"))
    assert collect(origin, *others, young_copy).versions == ()
    later = (old("2", model="production"), old("3", model="production"))
    both = collect(origin, *others, copy, *(replace(v, source=f"{v.source}-p") for v in later))
    assert {(one.model, one.version) for one in both.versions} == {
        ("smollm2", "1"),
        ("production", "1"),
    }


def test_bytes_written_lately_stay_even_without_a_version() -> None:
    stored = {"s3://shipway/models/new": NOON, "s3://shipway/models/orphan": LONG_AGO}
    assert collect(stored=stored).sources == ("s3://shipway/models/orphan",)


def test_a_version_that_shipway_did_not_make_is_never_deleted() -> None:
    garbage = collect(old("1", source="runs:/1/model"), old("2"), old("3"), stored={})
    assert garbage == Garbage(versions=(), sources=())


def test_the_unquantized_base_of_a_version_stays_as_long_as_the_version() -> None:
    tags = {SOURCE_TAG: "s3://shipway/bases/1"}
    stored = {f"s3://shipway/models/{number}": LONG_AGO for number in "123"}
    stored["s3://shipway/bases/1"] = LONG_AGO

    kept = collect(old("1", tags=tags), aliased={"1"}, stored=stored)
    gone = collect(old("1", tags=tags), old("2"), old("3"), stored=stored)

    assert "s3://shipway/bases/1" not in kept.sources
    assert gone.sources == ("s3://shipway/bases/1", "s3://shipway/models/1")


def test_a_version_that_is_the_base_of_another_stays_as_long_as_that() -> None:
    made = old("4", tags={SOURCE_TAG: "models:/smollm2/2"})
    between = old("2", tags={SOURCE_TAG: "models:/smollm2/1"})

    garbage = collect(old("1"), between, old("3"), made, old("5"), old("6"), aliased={"4"})

    assert [version.version for version in garbage.versions] == ["3"]
    assert garbage.sources == ("s3://shipway/models/3",)
