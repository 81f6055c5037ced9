"""Same inputs, same bytes: order and accidents are taken out, and nothing else changes."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipelines.quantize.canonical import make_canonical, sort_header

WEIGHTS = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(5, dtype="int8")}


def write_weights(path: Path, metadata: dict[str, str]) -> None:
    """With the metadata in this order, which the library itself does not promise."""
    save_file(WEIGHTS, path, metadata=metadata)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = metadata
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    path.write_bytes(content[:8] + text.ljust(length) + content[8 + length :])


def test_the_order_of_the_metadata_no_longer_matters(tmp_path) -> None:
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    entries = {"format": "pt", "bits": "4", "größe": "ß"}
    write_weights(one, entries)
    write_weights(two, dict(reversed(entries.items())))
    assert one.read_bytes() != two.read_bytes()
    sort_header(one)
    sort_header(two)
    assert one.read_bytes() == two.read_bytes()
    assert all(np.array_equal(WEIGHTS[name], value) for name, value in load_file(one).items())


def test_a_file_without_metadata_stays_as_it_is(tmp_path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(WEIGHTS, path)
    before = path.read_bytes()
    sort_header(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["config.json", "quantize_config.json"])
def test_what_says_how_the_work_was_done_is_taken_out_at_any_depth(tmp_path, name) -> None:
    out, base = tmp_path / "out", tmp_path / "base"
    out.mkdir()
    base.mkdir()
    leaks = {
        "offload_to_disk_path": "somewhere",
        "dataset": ["private text"],
        "tokenizer": "x",
        "cache_block_outputs": True,
    }
    (out / name).write_text(json.dumps({"q": [{"bits": 4, **leaks}], **leaks, "a": 1}))
    make_canonical(out, base=base)
    assert json.loads((out / name).read_text()) == {"a": 1, "q": [{"bits": 4}]}


def test_tokenizer_and_template_are_those_of_the_base_and_logs_are_gone(tmp_path) -> None:
    out, base = tmp_path / "out", tmp_path / "base"
    out.mkdir()
    base.mkdir()
    (base / "tokenizer.json").write_text("the base's")
    (base / "chat_template.jinja").write_text("the base's")
    (base / "model.safetensors").write_text("never copied")
    (out / "tokenizer.json").write_text("rewritten")
    (out / "quant_log.csv").write_text("times")
    make_canonical(out, base=base)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "tokenizer.json": "the base's",
        "chat_template.jinja": "the base's",
    }
