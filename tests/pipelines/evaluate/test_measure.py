"""A loaded model against its base, and models that cannot be measured."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.datasets import demo_data
from pipelines.evaluate.agreement import measure_agreement, write_reference
from pipelines.evaluate.answers import MAX_ANSWER_TOKENS, measure_answers
from pipelines.evaluate.measure import Measures, load, measure
from pipelines.evaluate.prompts import Question, read_prompts
from pipelines.evaluate.speed import measure_speed
from pipelines.progress import Announcer
from registry.errors import BadInput, SourceInvalid
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.real

TEXTS = (
    "the quick brown fox",
    "jumps over the lazy dog",
    "and a longer text than these two, to be sure",
)


def ignore(_: float) -> None:
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load(write_tiny_model(tmp_path_factory.mktemp("base"), seed=1))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return load(write_tiny_model(tmp_path_factory.mktemp("other"), seed=2))


@pytest.fixture(scope="module")
def reference(base, tmp_path_factory):
    file = tmp_path_factory.mktemp("reference") / "reference.safetensors"
    own = write_reference(*base, TEXTS, file, advance=ignore)
    assert (own.divergence, own.top1) == ((0, 0, 0), (1, 1, 1))
    return file


def test_a_model_agrees_with_itself(base, reference) -> None:
    agreement = measure_agreement(*base, TEXTS, reference, advance=ignore)
    assert agreement.divergence == pytest.approx((0, 0, 0), abs=1e-7)
    assert agreement.top1 == (1, 1, 1)


def test_another_model_differs_by_the_divergence_of_its_whole_vocabulary(
    base, other, reference
) -> None:
    agreement = measure_agreement(*other, TEXTS, reference, advance=ignore)
    for text, divergence, top1 in zip(TEXTS, agreement.divergence, agreement.top1, strict=True):
        ids = base[1](text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            p, q = (m(ids).logits[0, :-1].double().log_softmax(-1) for m in (base[0], other[0]))
        assert divergence == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
        assert top1 == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))


def test_tokens_that_are_not_kept_count_as_one(base, other, tmp_path, monkeypatch) -> None:
    """Less than the whole divergence, and never below none."""
    found = []
    for kept in (400, 20, 1):
        monkeypatch.setattr("pipelines.evaluate.agreement.KEPT_TOKENS", kept)
        file = tmp_path / f"{kept}.safetensors"
        write_reference(*base, TEXTS, file, advance=ignore)
        found.append(measure_agreement(*other, TEXTS, file, advance=ignore).divergence)
    for whole, some, one in zip(*found, strict=True):
        assert whole > some > one > 0


def test_a_model_of_another_tokenizer_is_refused(base, reference) -> None:
    with pytest.raises(SourceInvalid, match="cuts text into other tokens"):
        measure_agreement(*base, TEXTS[::-1], reference, advance=ignore)


def test_a_prompt_of_one_token_is_refused(base, tmp_path) -> None:
    with pytest.raises(BadInput, match="needs two"):
        write_reference(*base, ("a",), tmp_path / "r.safetensors", advance=ignore)


def test_each_question_has_its_answer_whatever_it_is_asked_beside(base) -> None:
    questions = [Question(question="the " * n, expected=".") for n in range(1, 30)]
    told: list[float] = []
    answers = measure_answers(*base, questions, advance=told.append)
    assert (len(answers.golden), answers.form, sum(told)) == (29, (), 29)
    # This model never ends by itself, and an answer of as many tokens holds something.
    assert answers.golden == (1.0,) * 29
    assert all(0 <= share < 1 for share in answers.repetition)
    form = Question(question="the fox", keys=("k",))
    assert measure_answers(*base, [form], advance=ignore).form == (0.0,)
    assert MAX_ANSWER_TOKENS < 20


def test_speeds_have_errors_and_a_machine(base, tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(7))
    told = measure_speed(*base, folder=tmp_path, window_s=[9.0, 0.5, 0.25], window_tokens=100)
    assert "threads on" in told.machine
    assert told.numbers["prefill_tokens_s"] == 300
    assert told.numbers["prefill_tokens_s_se"] == 100
    assert told.numbers["weights_bytes"] == 7
    assert told.numbers["peak_memory_bytes"] > 1 << 20
    for name in ("decode_tokens_s", "latency_p50_s"):
        assert told.numbers[name] > 0
        assert told.numbers[f"{name}_se"] > 0


def test_a_tokenizer_that_disagrees_with_the_embeddings_is_refused(tmp_path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:-5].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = folder / "config.json"
    rows = len(weights["lm_head.weight"])
    config.write_text(
        config.read_text().replace(f'"vocab_size": {rows + 5}', f'"vocab_size": {rows}')
    )
    with pytest.raises(SourceInvalid, match=f"and the model has embeddings for {rows}"):
        load(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_their_name(tmp_path, number) -> None:
    folder = shutil.copytree(write_tiny_model(tmp_path / "model"), tmp_path / "spoilt")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = number
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceInvalid, match=r"layers\.1\.mlp\.up_proj\.weight .*holds 1 NaN"):
        load(folder)


def test_a_champion_that_cuts_text_into_other_tokens_is_measured_by_its_answers_alone(
    tmp_path,
) -> None:
    """What is told per token could not be compared; a model that was made of the base has no such excuse."""
    data = demo_data(tmp_path)
    measures = Measures(data=data, tasks=(), prompts=read_prompts(data.tasks.parent))
    reference = tmp_path / "reference.safetensors"
    folder = write_tiny_model(tmp_path / "base")
    of_base, _ = measure(
        folder, measures, Announcer(), who="base", reference=reference, is_base=True
    )
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["merges"] = []
    file.write_text(json.dumps(tokenizer))
    given = {"who": "champion", "reference": reference, "is_base": False}
    told, _ = measure(folder, measures, Announcer(), **given, is_of_base=False)
    assert of_base.keys() - told.keys() == {"perplexity", "divergence", "top1_agreement"}
    assert told["golden"].n == of_base["golden"].n
    with pytest.raises(SourceInvalid, match="into other tokens"):
        measure(folder, measures, Announcer(), **given)
