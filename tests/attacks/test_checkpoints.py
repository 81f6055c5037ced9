"""What a stranger's checkpoint tries: code, adapters, templates that reach out.

Pickles, polyglots, links and names that lead out: `tests/pipelines/download/test_bad_sources.py`, `tests/pipelines/test_checkpoint.py`.
"""

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from jinja2 import TemplateError
from safetensors.numpy import save_file

from pipelines.checkpoint import check_checkpoint
from pipelines.download.card import parse_card
from pipelines.download.gguf import convert_gguf
from registry.errors import SourceInvalid

KERNEL = {"attn_implementation": "stranger/kernel"}
CODE = {"auto_map": {"AutoModel": "stranger/repository--modeling.Model"}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    weights = {"model.embed_tokens.weight": np.zeros((10, 6), dtype="float32")}
    save_file(weights, tmp_path / "model.safetensors")
    for name, document in {
        "config.json": {},
        "tokenizer.json": {},
        "tokenizer_config.json": {"chat_template": "{{ messages }}"},
    }.items():
        (tmp_path / name).write_text(json.dumps(document))
    check_checkpoint(tmp_path, where="it")
    return tmp_path


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"text_config": CODE}, "auto_map"),
        ({"sub": [{"deeper": CODE}]}, "auto_map"),
        (KERNEL, "attn_implementation"),
        (
            {"vision_config": {"_attn_implementation": "stranger/kernel@main:fn"}},
            "_attn_implementation",
        ),
        ({"experts_implementation": "stranger/kernel"}, "experts_implementation"),
        ({"custom_pipelines": {"x": {"impl": "m.P"}}}, "custom_pipelines"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_configuration_that_asks_for_code_anywhere_in_it_is_refused(
    checkpoint, name, document, says
) -> None:
    (checkpoint / name).write_text(json.dumps({"chat_template": "x", **document}))
    with pytest.raises(SourceInvalid, match=rf"{name} of it asks for code of its own \({says}"):
        check_checkpoint(checkpoint, where="it")


def test_a_plain_choice_of_attention_is_no_code(checkpoint) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"attn_implementation": "sdpa"}))
    check_checkpoint(checkpoint, where="it")


def test_an_adapter_beside_the_weights_is_refused(checkpoint) -> None:
    """transformers 5.23 puts it onto them unasked (seen), vLLM does not, and peft imports what `auto_mapping` names."""
    document = {"base_model_name_or_path": "/elsewhere", "auto_mapping": {"parent_library": "os"}}
    (checkpoint / "adapter_config.json").write_text(json.dumps(document))
    with pytest.raises(SourceInvalid, match="it holds an adapter"):
        check_checkpoint(checkpoint, where="it")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_a_configuration_that_is_nested_without_end_is_refused(checkpoint, name) -> None:
    (checkpoint / name).write_text('{"a":' * 50_000 + "1" + "}" * 50_000)
    with pytest.raises(SourceInvalid, match=f"{name} of it cannot be read"):
        check_checkpoint(checkpoint, where="it")


class _Opened:
    def __reduce__(self):
        return os.system, ("touch opened",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["model.safetensors", "model-2.safetensors"])
def test_a_pickle_that_is_called_safetensors_is_refused_and_not_opened(
    checkpoint, name, protocol, monkeypatch
) -> None:
    monkeypatch.chdir(checkpoint)
    (checkpoint / name).write_bytes(pickle.dumps(_Opened(), protocol))
    with pytest.raises(SourceInvalid):
        check_checkpoint(checkpoint, where="it")
    assert not (checkpoint / "opened").exists()


@pytest.mark.parametrize("length", [2**63, 2**40, 100_000_001])
def test_a_header_of_safetensors_that_claims_to_be_huge_is_refused_unread(
    checkpoint, length
) -> None:
    file = checkpoint / "model.safetensors"
    with file.open("wb") as out:
        out.write(struct.pack("<Q", length) + b"{}")
        out.truncate(min(length + 8, 1 << 30))  # a hole: it takes no room
    with pytest.raises(SourceInvalid, match="not a safetensors file"):
        check_checkpoint(checkpoint, where="it")


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


_KEY = _string(b"general.architecture")
LYING_GGUF = {
    "keys": struct.pack("<QQ", 0, 2**62),
    "tensors": struct.pack("<QQ", 2**62, 0),
    "a text": struct.pack("<QQ", 0, 1) + _KEY + struct.pack("<IQ", 8, 2**62),
    "a list": struct.pack("<QQ", 0, 1) + _KEY + struct.pack("<IIQ", 9, 0, 2**40),
    "lists of lists": struct.pack("<QQ", 0, 1) + _KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000,
}  # fmt: skip


@pytest.mark.parametrize("counts", LYING_GGUF.values(), ids=LYING_GGUF)
def test_a_gguf_file_that_claims_more_than_it_has_is_refused(tmp_path, counts) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<I", 3) + counts + b"\0" * 64)
    with pytest.raises(SourceInvalid, match="cannot be read as a GGUF model"):
        convert_gguf(file, tmp_path / "out")


@pytest.mark.parametrize(
    "license_", ["[apache-2.0, mit]", "{a: b}", "2026-99-99", "&a [*a]", "[" * 5000, "!!python/object:os.x {}"]
)  # fmt: skip
def test_a_card_that_says_odd_things_keeps_no_model_out(license_) -> None:
    told = parse_card(f"---\nlicense: {license_}\n---\nA model.\n")
    assert set(told) <= {"licence"}


def test_a_card_may_name_several_licences() -> None:
    assert parse_card("---\nlicense: [apache-2.0, mit]\n---\n") == {"licence": "apache-2.0, mit"}


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch opened') }}",
    "{{ messages[0].__class__.__base__.__subclasses__() }}",
    "{{ ('{0.__class__.__init__.__globals__}').format(messages) }}",
    "{{ messages.append('more') }}",
    "{{ range(10 ** 9) | length }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch opened') }}",
]
SILENT = [
    "{{ lipsum.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ messages[0] | attr('__class__') }}",
    "{{ namespace.__init__ }}",
]


@pytest.fixture
def render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the engine and the pipeline do it: by the tokenizer that lies beside the weights."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    monkeypatch.chdir(tmp_path)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a")))

    def rendered(template: str) -> str:
        tokenizer.chat_template = template
        return str(
            tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
        )

    yield rendered
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_that_reaches_out_of_its_sandbox_is_stopped(render, template) -> None:
    with pytest.raises((TemplateError, TypeError, OverflowError)):
        render(template)


@pytest.mark.parametrize("template", SILENT)
def test_a_chat_template_that_asks_for_pythons_insides_gets_nothing(render, template) -> None:
    assert render(template) == ""
