"""The endpoint file: what is accepted comes back as it was, what is not is named with its place and a way out."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy_targets.endpoint import EndpointFile, endpoint_schema, parse_endpoints
from registry.errors import EndpointFileInvalid, NotFound
from registry.promotion import AliasTrigger, StageTrigger

SHIPPED = Path(__file__).parents[1] / "endpoints.yaml"


def a_document(**changes: Any) -> dict[str, Any]:
    """One endpoint with nothing but its name and model, and `changes`."""
    endpoint = {"name": "chat", "model": "smollm2", **changes}
    return {"apiVersion": "shipway/v1", "endpoints": [endpoint]}


def parse(document: Any) -> EndpointFile:
    return parse_endpoints(yaml.safe_dump(document), origin="endpoints.yaml")


def test_the_shipped_file_comes_back_as_it_was() -> None:
    file = parse_endpoints(SHIPPED.read_text(), origin="endpoints.yaml")
    again = parse(file.model_dump(mode="json", by_alias=True))
    assert again == file


def test_a_name_and_a_model_are_enough() -> None:
    endpoint = parse(a_document()).named("chat")
    assert endpoint.trigger == AliasTrigger(alias="challenger")
    assert [step.weight for step in endpoint.rollout.steps] == [5, 25, 50]


@pytest.mark.parametrize(
    ("promote", "trigger"),
    [
        ({"alias": "candidate"}, AliasTrigger(alias="candidate")),
        ({"stage": "Production"}, StageTrigger(stage="Production")),
    ],
)
def test_what_promotes_can_be_chosen(promote: dict[str, str], trigger: object) -> None:
    assert parse(a_document(promote=promote)).named("chat").trigger == trigger


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"modle": "x"}, "endpoints.0.modle"),
        ({"rollout": {"step": []}}, "endpoints.0.rollout.step"),
        ({"rollout": {"steps": [{"weigth": 5}]}}, "endpoints.0.rollout.steps.0.weigth"),
        ({"rollout": {"metrics": {"error": {}}}}, "endpoints.0.rollout.metrics.error"),
        ({"batching": {"max_delay": 1}}, "endpoints.0.batching.max_delay"),
        ({"engine": {"treads": 1}}, "endpoints.0.engine.treads"),
        ({"resources": {"gpu": 1}}, "endpoints.0.resources.gpu"),
        ({"serving": {"rate": 1}}, "endpoints.0.serving.rate"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(EndpointFileInvalid, match=rf"(?m)^  {place}: Extra inputs"):
        parse(a_document(**changes))


def test_of_very_many_faults_the_first_are_told_and_how_many_there_are() -> None:
    text = "a: &a {k: 1, l: 2}\nendpoints: [" + ", ".join(["*a"] * 1000) + "]\n"
    with pytest.raises(EndpointFileInvalid, match="and 3953 more faults") as told:
        parse_endpoints(text, origin="it")
    assert len(str(told.value)) < 5000


@pytest.mark.parametrize(
    ("changes", "way_out"),
    [
        ({"promote": {"alias": "champion"}}, "name another alias"),
        ({"rollout": {"steps": [{"weight": 25}, {"weight": 5}]}}, "weights must rise"),
        ({"rollout": {"steps": [{"weight": 5}, {"weight": 5}]}}, "weights must rise"),
        ({"rollout": {"steps": [{"weight": 80}]}}, "at most 50 percent"),
        (
            {"rollout": {"steps": [{"weight": 5, "dwell_s": 90}], "time_limit_s": 90}},
            "dwell for less or raise time_limit_s",
        ),
        ({"rollout": {"metrics": {"errors": {"tolerance": 0}}}}, "or promote: {by: exposure"),
        ({"rollout": {"metrics": {"errors": None}}}, "no metric is left"),
        (
            {"rollout": {"metrics": {"quality": {}}}},
            "write `guard: {quality: {}}` for its defaults",
        ),
        (
            {"guard": {"quality": {"bad": []}}},
            "guard.quality.bad: Tuple should have at least 1 item",
        ),
        (
            {
                "rollout": {"metrics": {"quality": {}}},
                "guard": {"quality": {"feedback_wait_s": 61}},
            },
            "settle_s is 60, but answers are judged up to 61 s after",
        ),
        ({"guard": {"quality": {"bad": ["dull"]}}}, "Input should be 'empty', 'loop'"),
        (
            {"guard": {"quality": {"refusal_patterns": ["a+"]}}},
            "refusal pattern 'a\\+' cannot be used",
        ),
        (
            {"rollout": {"metrics": {"cost": {"max_per_request_micros": 9}}}},
            "nothing has a price; give guard.prices",
        ),
        (
            {"rollout": {"metrics": {"first_token": {"slo_s": 0.21}}}},
            "metrics.first_token.slo_s is 0.21, but the guard counts",
        ),
        (
            {"guard": {"limits": {"key": {"micros_per_day": 5}}}},
            "nothing has a price",
        ),
        ({"rollout": {"metrics": {"latency": {"slo_s": 1.5}}}}, "1, 2, .* choose one of these"),
        (
            {
                "rollout": {
                    "metrics": {"errors": None, "latency": {"slo_s": 1}},
                    "first_release_requests": 10,
                }
            },
            "give one a limit",
        ),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused_with_the_way_out(
    changes: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(EndpointFileInvalid, match=way_out):
        parse(a_document(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Chat"},
        {"name": "chat-"},
        {"name": "c" * 41},
        {"model": ""},
        {"replicas": 0},
        {"promote": {"stage": "Archived"}},
        {"target": "kubernetes"},
        {"rollout": {"steps": []}},
        {"rollout": {"false_rollback_rate": 0}},
        {"rollout": {"smoke_prompts": []}},
        {"rollout": {"promote": {"by": "exposure", "requests": 0}}},
        {"rollout": {"promote": {"requests": 100}}},
        {"rollout": {"false_promotion_rate": 0.5}},
        {"serving": {"timeout_s": 0}},
    ],
)
def test_a_value_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    (field,) = changes
    with pytest.raises(EndpointFileInvalid, match=rf"endpoints\.0\.{field}"):
        parse(a_document(**changes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("endpoints: [", "not valid YAML"),
        ("endpoints: 2024-13-45", "not valid YAML"),
        ("", "not a valid endpoint file"),
        ("[]", "not a valid endpoint file"),
        ("apiVersion: shipway/v2\nendpoints: []", "apiVersion"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(EndpointFileInvalid, match=rf"(?s)^endpoints\.yaml.*{said}"):
        parse_endpoints(text, origin="endpoints.yaml")


@pytest.mark.parametrize("field", ["name", "model"])
def test_two_endpoints_may_not_share_a_name_or_a_model(field: str) -> None:
    document = a_document()
    other = {"name": "other", "model": "other", field: document["endpoints"][0][field]}
    document["endpoints"].append(other)
    with pytest.raises(EndpointFileInvalid, match=f"{field} of its own"):
        parse(document)


def test_two_endpoints_on_one_model_are_refused_whatever_their_policies() -> None:
    document = a_document()
    first = document["endpoints"][0]
    policy = {"steps": [{"weight": 1, "dwell_s": 3_600}]}
    document["endpoints"].append({"name": "other", "model": first["model"], "rollout": policy})
    with pytest.raises(EndpointFileInvalid, match="model of its own"):
        parse(document)


def test_an_endpoint_that_is_not_declared_is_not_found_and_the_others_are_named() -> None:
    with pytest.raises(NotFound, match=r"'caht'.*It declares: chat"):
        parse(a_document()).named("caht")


def test_the_schema_accepts_what_is_accepted_and_refuses_an_unknown_key() -> None:
    schema = endpoint_schema()
    jsonschema.validate(yaml.safe_load(SHIPPED.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError, match="modle"):
        jsonschema.validate(a_document(modle="x"), schema)
