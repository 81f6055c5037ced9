"""A name on a version counts only with a signature over all that it says."""

import json
from dataclasses import replace

import pytest

from registry.asked_by import Actor, approved_by, asked_by, name_tag
from registry.hints import Deed, Touch, read_deed, read_touch
from registry.promotion import AliasTrigger, StageTrigger
from registry.release import APPROVAL_TAG, ModelVersion
from tests.builders import NOON, a_version

SECRET = "s3cret"
ALIAS, STAGE = AliasTrigger(), StageTrigger()
TAG = "shipway.asked_by.alias.challenger"


def a_touch(deed: Deed = Deed.ALIAS_SET, *, version: str = "7", name: str = "challenger") -> Touch:
    return Touch(deed=deed, model="smollm2", version=version, name=name, user="alice", at=NOON)


def tagged(*touches: Touch, **tags: str) -> ModelVersion:
    written = dict(tag for touch in touches if (tag := name_tag(touch, SECRET)))
    kept = {key: value for key, value in written.items() if value is not None}
    return a_version("7", tags={**kept, **tags})


def test_who_set_the_alias_is_read_from_the_version() -> None:
    assert asked_by(tagged(a_touch()), ALIAS, SECRET) == Actor(user="alice", at=NOON)


def test_each_request_has_a_name_of_its_own() -> None:
    stage = replace(a_touch(Deed.STAGE_MOVED, name="Production"), user="bob")
    approval = replace(a_touch(Deed.TAG_SET, name=APPROVAL_TAG), user="carol")
    version = tagged(a_touch(), stage, approval, **{APPROVAL_TAG: "yes"})

    assert asked_by(version, ALIAS, SECRET) == Actor(user="alice", at=NOON)
    assert asked_by(version, STAGE, SECRET) == Actor(user="bob", at=NOON)
    assert approved_by(version, SECRET) == Actor(user="carol", at=NOON)
    assert asked_by(version, AliasTrigger(alias="champion"), SECRET) is None


def test_an_approval_that_was_taken_back_is_nobodys() -> None:
    assert approved_by(tagged(a_touch(Deed.TAG_SET, name=APPROVAL_TAG)), SECRET) is None


def test_a_later_request_of_an_unknown_user_is_not_the_earlier_ones() -> None:
    assert asked_by(tagged(a_touch(), replace(a_touch(), user=None)), ALIAS, SECRET) is None


@pytest.mark.parametrize("field", ["user", "at", "signature"])
def test_a_name_that_was_written_by_hand_is_nobodys(field: str) -> None:
    value = json.loads(tagged(a_touch()).tags[TAG])
    forged = {**value, field: "2020-01-01T00:00:00+00:00" if field == "at" else "mallory"}
    assert asked_by(tagged(**{TAG: json.dumps(forged)}), ALIAS, SECRET) is None


@pytest.mark.parametrize("value", ["", "alice", "[]", "{}", "null", '{"user": "ä", "at": 1}'])
def test_a_tag_that_says_something_else_is_nobodys(value: str) -> None:
    assert asked_by(tagged(**{TAG: value}), ALIAS, SECRET) is None


def test_a_name_holds_for_its_version_model_request_and_secret_alone() -> None:
    value = tagged(a_touch()).tags[TAG]

    assert asked_by(a_version("8", tags={TAG: value}), ALIAS, SECRET) is None
    assert asked_by(replace(tagged(a_touch()), model="other"), ALIAS, SECRET) is None
    champion = AliasTrigger(alias="champion")
    assert asked_by(tagged(**{TAG.replace("challenger", "champion"): value}), champion, SECRET) is (
        None
    )
    assert asked_by(tagged(a_touch()), ALIAS, "another secret") is None


@pytest.mark.parametrize(
    "deed", sorted(set(Deed) - {Deed.ALIAS_SET, Deed.STAGE_MOVED, Deed.TAG_SET})
)
def test_what_asks_for_nothing_leaves_no_name(deed: Deed) -> None:
    assert name_tag(a_touch(deed), SECRET) is None


@pytest.mark.parametrize(
    ("method", "path", "deed"),
    [
        ("POST", "/api/2.0/mlflow/registered-models/alias", Deed.ALIAS_SET),
        ("DELETE", "/ajax-api/2.0/mlflow/registered-models/alias", Deed.ALIAS_DELETED),
        ("POST", "/prefix/ajax-api/2.0/mlflow/model-versions/transition-stage", Deed.STAGE_MOVED),
        ("GET", "/api/2.0/mlflow/registered-models/alias", None),
        ("POST", "/api/2.0/mlflow/runs/log-metric", None),
        ("POST", "/", None),
    ],
)
def test_a_deed_is_known_by_its_call(method: str, path: str, deed: Deed | None) -> None:
    assert read_deed(method, path) == deed


def test_a_touch_is_told_as_mlflow_keeps_it() -> None:
    asked = {"name": "smollm2", "version": "07", "stage": "production"}
    answered = {"model_version": {"version": "7", "current_stage": "Production"}}
    touch = read_touch(Deed.STAGE_MOVED, asked, answered, user="alice", at=NOON)
    assert touch == a_touch(Deed.STAGE_MOVED, name="Production")

    copied = {"model_version": {"version": "3"}}
    touch = read_touch(Deed.VERSION_CREATED, {"name": "smollm2"}, copied, user="alice", at=NOON)
    assert touch == a_touch(Deed.VERSION_CREATED, version="3", name="")


def test_a_tag_that_is_no_approval_is_no_touch() -> None:
    asked = {"name": "smollm2", "version": "7", "key": "owner", "value": "me"}
    assert read_touch(Deed.TAG_SET, asked, {}, user="alice", at=NOON) is None


def test_a_touch_survives_its_journey() -> None:
    assert Touch.from_json(a_touch().to_json()) == a_touch()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"deed": "dug"}', "7", "[" * 5000])
def test_a_body_of_another_kind_is_no_touch(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own errors are of this class as well
        Touch.from_json(text)
