"""Where a version's unquantized base is, and what is refused instead of it."""

import pytest

from pipelines.retrain.parent import Base, check_base, find_base, parse_parent
from registry.errors import BadInput, SourceInvalid
from registry.release import BASE_TAG, DIGEST_TAG, SOURCE_TAG, ModelVersion

QUANTIZED, PLAIN = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def a_version(**tags: str) -> ModelVersion:
    return ModelVersion(model="m", version="3", source="s3://b/x", tags=tags)


def test_a_quantized_version_leads_to_the_base_that_its_tags_name() -> None:
    version = a_version(
        **{DIGEST_TAG: QUANTIZED, BASE_TAG: PLAIN, SOURCE_TAG: "hub://a/b@" + "0" * 40}
    )
    assert find_base(version) == Base(source="hub://a/b@" + "0" * 40, digest=PLAIN)


def test_an_unquantized_version_is_its_own_base() -> None:
    version = a_version(**{DIGEST_TAG: PLAIN, BASE_TAG: PLAIN, SOURCE_TAG: "/gone"})
    assert find_base(version) == Base(source="models:/m/3", digest=PLAIN)


def test_a_version_of_somebody_elses_is_tried_itself() -> None:
    assert find_base(a_version()) == Base(source="models:/m/3", digest=None)


def test_a_quantized_version_that_does_not_say_where_its_base_is_is_refused() -> None:
    version = a_version(**{DIGEST_TAG: QUANTIZED, BASE_TAG: PLAIN})
    with pytest.raises(SourceInvalid, match=f"models:/m/3 was quantized.*{PLAIN}.*-P base="):
        find_base(version)


def test_a_person_may_name_the_base_but_not_change_it() -> None:
    version = a_version(**{DIGEST_TAG: QUANTIZED, BASE_TAG: PLAIN})
    base = find_base(version, named="/mnt/base")
    check_base(version, base, digest=PLAIN, is_quantized=False)
    with pytest.raises(
        SourceInvalid, match=f"/mnt/base has the digest {QUANTIZED}.*made of {PLAIN}"
    ):
        check_base(version, base, digest=QUANTIZED, is_quantized=False)


def test_a_quantized_base_is_never_trained() -> None:
    version = a_version()
    with pytest.raises(SourceInvalid, match="models:/m/3 is quantized"):
        check_base(version, find_base(version), digest=PLAIN, is_quantized=True)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("7", ("7", None)), ("champion", (None, "champion")), ("@champion", (None, "champion"))],
)
def test_a_parent_is_a_number_or_an_alias(text, parsed) -> None:
    assert parse_parent(text) == parsed


@pytest.mark.parametrize("text", ["", "m/3", "models:/m@champion", "v 1"])
def test_anything_else_is_no_parent(text) -> None:
    with pytest.raises(BadInput, match="names no version"):
        parse_parent(text)
