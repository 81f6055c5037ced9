"""Batched generation on a real, tiny model: each row gets what it would get alone."""

import json
from pathlib import Path

import pytest
import torch
from jinja2.exceptions import TemplateError, UndefinedError

from deploy_targets.engine.chat import BadRequest, ChatRequest
from deploy_targets.engine.generation import Generator, Row
from registry.errors import SourceInvalid
from tests.tiny_model import TEMPLATE, write_tiny_model

pytestmark = pytest.mark.real


def asked(content: str = "the fox", **fields: object) -> ChatRequest:
    default = {"max_tokens": 12, "temperature": 0, "top_p": 1, "stop": (), "stream": False}
    return ChatRequest(
        messages=({"role": "user", "content": content},),
        include_usage=False,
        **{**default, **fields},
    )


def answers(generator: Generator, *requests: ChatRequest) -> list[list[int]]:
    rows = [generator.row(request) for request in requests]
    generator.generate(rows, lambda: None)
    return [row.tokens for row in rows]


def test_a_row_in_a_batch_gets_the_tokens_that_it_gets_alone(generator: Generator) -> None:
    requests = [asked("the"), asked("the quick brown fox jumps " * 4), asked("dog", max_tokens=30)]
    alone = [answers(generator, request)[0] for request in requests]
    assert answers(generator, *requests) == alone
    assert len({tuple(one) for one in alone}) == 3


def test_each_row_ends_at_its_own_length(generator: Generator) -> None:
    lengths = [1, 7, 20]
    tokens = answers(generator, *(asked(max_tokens=length) for length in lengths))
    assert [len(one) for one in tokens] == lengths


def test_the_end_token_ends_a_row_and_is_no_part_of_its_answer(generator: Generator) -> None:
    whole = answers(generator, asked())[0]
    end = whole[5]
    generator._ends = frozenset({end})
    assert answers(generator, asked())[0] == whole[: whole.index(end)]


def test_a_row_whose_client_left_stops_the_batch(generator: Generator) -> None:
    rows = [generator.row(asked(max_tokens=200)) for _ in range(2)]

    def leave_after_three() -> None:
        if len(rows[0].tokens) == 3:
            for row in rows:
                row.ended.set()

    generator.generate(rows, leave_after_three)
    assert [len(row.tokens) for row in rows] == [3, 3]


@pytest.mark.parametrize("sampling", [{"temperature": 1e-40}, {"temperature": 2, "top_p": 1e-6}])
def test_sampling_without_choice_is_greedy(generator: Generator, sampling) -> None:
    greedy, sampled = answers(generator, asked(), asked(**sampling))
    assert sampled == greedy


def test_each_row_has_its_own_temperature(generator: Generator) -> None:
    torch.manual_seed(1)
    rows = answers(generator, asked(), *(asked(temperature=2, max_tokens=20) for _ in range(3)))
    assert rows[0] == answers(generator, asked())[0]
    assert len({tuple(row) for row in rows[1:]}) == 3


def test_the_artifacts_own_sampling_defaults_do_not_come_on_top(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    file = folder / "generation_config.json"
    wish = {"do_sample": True, "temperature": 0.001, "top_p": 0.001}
    file.write_text(json.dumps({**json.loads(file.read_text()), **wish}))
    generator = Generator(folder, threads=1, max_context_tokens=256)
    torch.manual_seed(1)
    rows = answers(generator, *(asked(temperature=2, max_tokens=20) for _ in range(3)))
    assert len({tuple(row) for row in rows}) == 3


def test_what_does_not_fit_into_the_context_is_a_bad_request(generator: Generator) -> None:
    assert isinstance(generator.row(asked(max_tokens=200)), Row)
    with pytest.raises(BadRequest, match="the context is 256 tokens"):
        generator.row(asked(max_tokens=256))


def test_a_template_that_says_no_is_a_bad_request_and_a_broken_one_is_not(tmp_path: Path) -> None:
    says_no = "{% if messages[0].content == 'no' %}{{ raise_exception('roles') }}{% endif %}"
    template = f"{says_no}{{{{ missing + 'x' }}}}{TEMPLATE}"
    generator = Generator(
        write_tiny_model(tmp_path, template=template), threads=1, max_context_tokens=256
    )
    with pytest.raises(BadRequest, match="roles"):
        generator.row(asked("no"))
    with pytest.raises(TemplateError) as broken:
        generator.row(asked("yes"))
    assert broken.type is UndefinedError


def test_an_artifact_without_a_chat_template_does_not_load(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, template=None)
    with pytest.raises(SourceInvalid, match="no chat template"):
        Generator(folder, threads=1, max_context_tokens=256)


def test_a_pickle_is_never_loaded(tmp_path: Path, checkpoint: Path) -> None:
    write_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        Generator(tmp_path, threads=1, max_context_tokens=256)
