"""auto-gptq's layout, in and out. The real auto-gptq is asked in tests/formats."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.quantize.auto_gptq import adopt, export
from pipelines.quantize.export import main as export_main
from registry.digests import describe_folder
from registry.errors import SourceInvalid

PACKED = {"model.layers.0.mlp.up_proj.qweight": torch.ones(4, 8, dtype=torch.int32)}
EMBEDDING = {"model.embed_tokens.weight": torch.rand(5, 8)}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq"}


def write(file: Path, document: dict) -> None:
    file.write_text(json.dumps(document))


def read(file: Path) -> dict:
    return json.loads(file.read_text())


@pytest.fixture
def ours(tmp_path) -> Path:
    """What gptqmodel writes today, as far as it matters here."""
    folder = tmp_path / "ours"
    folder.mkdir()
    meta = {"damp_percent": 0.05, "true_sequential": True, "uri": "https://example.org"}
    quantized = {**GPTQ, "desc_act": False, "sym": True, "meta": meta}
    rope = {"rope_theta": 100000.0, "rope_type": "default"}
    config = {"model_type": "llama", "dtype": "bfloat16", "tie_word_embeddings": True}
    write(
        folder / "config.json",
        {**config, "rope_parameters": rope, "quantization_config": quantized},
    )
    save_file({**PACKED, **EMBEDDING}, folder / "model.safetensors", metadata={"format": "pt"})
    write(
        folder / "tokenizer.json", {"model": {"type": "BPE", "merges": [["a", "b"], ["ab", "c"]]}}
    )
    write(folder / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend", "local": True})
    return folder


def change(folder: Path, **values) -> None:
    write(folder / "config.json", {**read(folder / "config.json"), **values})


def test_an_export_says_everything_in_the_words_of_auto_gptq_s_day(ours, tmp_path) -> None:
    out = tmp_path / "out"
    export(ours, out)
    assert read(out / "config.json") == {
        "model_type": "llama",
        "rope_theta": 100000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    assert read(out / "quantize_config.json") == {
        "bits": 4,
        "damp_percent": 0.05,
        "desc_act": False,
        "group_size": 64,
        "sym": True,
        "true_sequential": True,
    }
    assert read(out / "tokenizer.json")["model"]["merges"] == ["a b", "ab c"]
    assert read(out / "tokenizer_config.json") == {"tokenizer_class": "PreTrainedTokenizerFast"}


def test_an_export_changes_no_weight_and_writes_the_tied_head_out(ours, tmp_path) -> None:
    export(ours, tmp_path / "out")
    before = load_file(ours / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    head = after.pop("lm_head.weight")
    assert torch.equal(head, before["model.embed_tokens.weight"])
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_head_of_its_own_stays_as_it_is(ours, tmp_path) -> None:
    change(ours, tie_word_embeddings=False)
    export(ours, tmp_path / "out")
    name = "model.safetensors"
    assert (ours / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_same_export_twice_is_the_same_bytes_and_the_source_is_untouched(
    ours, tmp_path
) -> None:
    before = describe_folder(ours)
    export(ours, tmp_path / "one")
    export(ours, tmp_path / "two")
    assert describe_folder(tmp_path / "one") == describe_folder(tmp_path / "two")
    assert describe_folder(ours) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantization_config": {**GPTQ, "checkpoint_format": "gptq_v2"}}, "format gptq_v2"),
        ({"quantization_config": {"quant_method": "torchao"}}, "format torchao-int8"),
        ({"quantization_config": {"quant_method": "awq"}}, "format unknown"),
        ({"model_type": "qwen3"}, "knows no models of type qwen3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "stretches its positions by `yarn`"),
    ],
)
def test_what_auto_gptq_could_not_read_is_not_exported(ours, tmp_path, changes, says) -> None:
    change(ours, **changes)
    with pytest.raises(SourceInvalid, match=says):
        export(ours, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_folder_that_is_there_is_never_written_over(ours, tmp_path) -> None:
    with pytest.raises(SourceInvalid, match="is there already"):
        export(ours, ours)


def test_the_command_says_where_the_copy_is(ours, tmp_path, capsys) -> None:
    from pipelines.quantize.export import Reader

    export_main(ours, Reader.AUTO_GPTQ, tmp_path / "out")
    assert f"{tmp_path / 'out'} is for auto-gptq: sha256:" in capsys.readouterr().out


@pytest.fixture
def theirs(tmp_path) -> Path:
    """What auto-gptq before 0.5 left in a folder."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    write(folder / "config.json", {"model_type": "llama", "_name_or_path": "/models/ada/llama"})
    write(
        folder / "quantize_config.json",
        {
            "bits": 4,
            "group_size": 64,
            "damp_percent": 0.01,
            "desc_act": True,
            "sym": True,
            "true_sequential": True,
            "model_name_or_path": "/models/ada/out",
            "model_file_base_name": "gptq_model-4bit-64g",
        },
    )
    save_file({**PACKED, **EMBEDDING}, folder / "gptq_model-4bit-64g.safetensors")
    return folder


def test_a_checkpoint_in_auto_gptq_s_layout_gets_today_s_names(theirs) -> None:
    weights = (theirs / "gptq_model-4bit-64g.safetensors").read_bytes()
    assert adopt(theirs, where="theirs")
    assert sorted(path.name for path in theirs.iterdir()) == [
        "config.json",
        "model.safetensors",
        "quantize_config.json",
    ]
    assert (theirs / "model.safetensors").read_bytes() == weights
    config = read(theirs / "config.json")
    assert config["quantization_config"] == {
        "bits": 4,
        "checkpoint_format": "gptq",
        "damp_percent": 0.01,
        "desc_act": True,
        "group_size": 64,
        "quant_method": "gptq",
        "sym": True,
        "true_sequential": True,
    }
    assert "/models/ada" not in "".join(file.read_text() for file in theirs.glob("*.json"))


def test_several_files_keep_their_names_below_an_index_of_today_s_name(theirs) -> None:
    part = "gptq_model-4bit-64g-00001-of-00001.safetensors"
    (theirs / "gptq_model-4bit-64g.safetensors").rename(theirs / part)
    write(theirs / "gptq_model-4bit-64g.safetensors.index.json", {"weight_map": {"a": part}})
    assert adopt(theirs, where="theirs")
    assert read(theirs / "model.safetensors.index.json") == {"weight_map": {"a": part}}
    assert (theirs / part).exists()


def test_what_is_of_today_is_left_alone(ours) -> None:
    write(ours / "quantize_config.json", GPTQ)
    before = describe_folder(ours)
    assert not adopt(ours, where="ours")
    assert describe_folder(ours) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"is_marlin_format": True}, "Marlin or AWQ"),
        ({"version": "GEMM"}, "Marlin or AWQ"),
        ({"bits": None}, "lacks bits or group_size"),
    ],
)
def test_a_layout_that_nobody_else_reads_is_refused(theirs, changes, says) -> None:
    file = theirs / "quantize_config.json"
    told = {k: v for k, v in {**read(file), **changes}.items() if v is not None}
    write(file, told)
    with pytest.raises(SourceInvalid, match=says):
        adopt(theirs, where="theirs")
