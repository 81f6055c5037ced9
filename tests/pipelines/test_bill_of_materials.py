"""A version's bill of materials: what CycloneDX's own strict schema takes, and what it answers."""

import json
import math

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st

from pipelines.bill_of_materials import Facts, render_bill
from registry.release import ArtifactManifest, Digest, FileEntry

BASE = Digest("sha256:" + "b" * 64)
DATA = "sha256:" + "d" * 64


def some_facts(**changes) -> Facts:
    file = FileEntry(path="model.safetensors", digest=Digest("sha256:" + "a" * 64), size_bytes=7)
    facts = {
        "name": "chat",
        "source": "s3://shipway/models/a",
        "manifest": ArtifactManifest.of([file]),
        "base": BASE,
        "origin": {"source": "hub://org/name@abc", "revision": "abc", "licence": "apache-2.0"},
        "recipe": {"method": "gptq", "bits": 4},
        "data": {"calibration": DATA},
        "scores": {"perplexity": (30.0, 1.0), "odd": (1.0, math.inf)},
        "gate": {"perplexity.base": 29.0},
    }
    return Facts(**{**facts, **changes})


def complaint(text: str):
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"origin": {}},
        {"origin": {"licence": "llama3.1"}},
        {"recipe": {}, "data": {}, "scores": {}, "gate": {}},
        {"base": some_facts().manifest.digest},
        {"manifest": ArtifactManifest.of([])},
    ],
)
def test_the_bill_is_what_the_strict_schema_takes(changes) -> None:
    assert complaint(render_bill(some_facts(**changes))) is None


def test_the_validator_would_say_no() -> None:
    bill = json.loads(render_bill(some_facts()))
    bill["metadata"]["component"]["hashes"][0]["content"] = "short"
    assert complaint(json.dumps(bill)) is not None


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_whatever_a_card_and_a_recipe_say_the_bill_is_valid(licence, recipe) -> None:
    assert complaint(render_bill(some_facts(origin={"licence": licence}, recipe=recipe))) is None


def test_it_answers_base_recipe_data_licence_scores_and_loss() -> None:
    facts = some_facts()
    bill = json.loads(render_bill(facts))
    model = bill["metadata"]["component"]
    [base] = model["pedigree"]["ancestors"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": facts.manifest.digest[7:]}]
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert (base["name"], base["version"]) == ("hub://org/name@abc", "abc")
    assert base["hashes"][0]["content"] == "b" * 64
    assert {"name": "shipway:recipe:bits", "value": "4"} in model["properties"]
    assert [c["name"] for c in bill["components"]] == ["calibration"]
    [odd, perplexity, loss] = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert (odd["type"], "confidenceInterval" in odd) == ("odd", False)
    assert perplexity["confidenceInterval"] == {"lowerBound": "28", "upperBound": "32"}
    assert (loss["type"], loss["value"]) == ("gate.perplexity.base", "29")


def test_the_same_model_gives_the_same_bill_and_another_another() -> None:
    one, other = render_bill(some_facts()), render_bill(some_facts(recipe={"bits": 8}))
    assert one == render_bill(some_facts())
    assert json.loads(one)["serialNumber"] != json.loads(other)["serialNumber"]
