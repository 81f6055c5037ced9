"""What is let in as a checkpoint."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from pipelines.checkpoint import block_in_features, check_checkpoint, check_names
from registry.errors import SourceInvalid

GOOD = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """The least that is let in; its weights are the layers of two blocks, an embedding and a norm."""
    import numpy as np

    weights = {
        "model.embed_tokens.weight": (10, 6),
        "lm_head.weight": (10, 6),
        "model.layers.0.mlp.up_proj.weight": (8, 6),
        "model.layers.1.mlp.down_proj.weight": (6, 8),
        "model.layers.1.input_layernorm.weight": (6,),
    }
    save_file(
        {name: np.zeros(shape, dtype="float32") for name, shape in weights.items()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return tmp_path


def test_plain_weights_with_a_tokenizer_and_a_template_are_let_in(checkpoint) -> None:
    check_checkpoint(checkpoint, where="it")


@pytest.mark.parametrize(
    "name",
    ["a.bin", "A.BIN", "a.pt", "a.pth", "a.pkl", "sub/a.pickle", "a.ckpt", "a.py", "sub/a.so"],
)
def test_one_file_that_could_run_is_one_too_many(name) -> None:
    with pytest.raises(SourceInvalid, match=name):
        check_names([*GOOD, name], where="it")


@pytest.mark.parametrize("names", [[], ["config.json"], ["weights.safetensors.index.json"]])
def test_names_without_weights_are_refused(names) -> None:
    with pytest.raises(SourceInvalid, match=r"holds no \*.safetensors weights"):
        check_names(names, where="it")


def test_a_message_names_a_few_files_and_counts_the_rest() -> None:
    with pytest.raises(SourceInvalid, match=r"\(1.bin, 2.bin, 3.bin and 2 more\)"):
        check_names([f"{number}.bin" for number in range(1, 6)], where="it")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_each_part_is_needed(checkpoint, name) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(SourceInvalid):
        check_checkpoint(checkpoint, where="it")


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_broken_configuration_is_refused_by_name(checkpoint, name, text) -> None:
    (checkpoint / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SourceInvalid, match=f"{name} of it"):
        check_checkpoint(checkpoint, where="it")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_wish_for_code_is_refused_wherever_it_stands(checkpoint, name) -> None:
    document = json.loads((checkpoint / name).read_text())
    (checkpoint / name).write_text(json.dumps({**document, "auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(SourceInvalid, match=f"{name} of it asks for code of its own"):
        check_checkpoint(checkpoint, where="it")


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_weights_that_are_cut_short_are_refused(checkpoint, keep) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SourceInvalid, match="cut short"):
        check_checkpoint(checkpoint, where="it")


def test_a_shard_that_the_index_names_must_be_there(checkpoint) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceInvalid, match=r"lacks model-2.safetensors"):
        check_checkpoint(checkpoint, where="it")


@pytest.mark.parametrize(
    ("shard", "told"),
    [
        ("b" * 300, "lacks bbb"),
        ("b\ud800", r"lacks b\\ud800"),
        ("b\0", "lacks b"),
        ("../{}/model.safetensors", r"lacks \.\./"),
    ],
)
def test_a_shard_lies_in_the_checkpoint_whatever_the_index_calls_it(
    checkpoint, shard, told
) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": shard.format(checkpoint.name)}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceInvalid, match=told):
        check_checkpoint(checkpoint, where="it")


@pytest.mark.parametrize("weight_map", ["x", 5, ["a"], None])
def test_a_nonsensical_index_is_refused(checkpoint, weight_map) -> None:
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(SourceInvalid, match="index"):
        check_checkpoint(checkpoint, where="it")


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_template_may_lie_in_a_file_of_its_own_that_is_not_empty(checkpoint, name) -> None:
    (checkpoint / "tokenizer_config.json").write_text("{}")
    (checkpoint / name).touch()
    with pytest.raises(SourceInvalid, match="has no chat template"):
        check_checkpoint(checkpoint, where="it")
    (checkpoint / name).write_text("{{ messages }}")
    check_checkpoint(checkpoint, where="it")


def test_only_the_matrices_of_the_blocks_are_quantized(checkpoint) -> None:
    assert block_in_features(checkpoint) == {
        "model.layers.0.mlp.up_proj": 6,
        "model.layers.1.mlp.down_proj": 8,
    }
