"""Archives that lead out, weights that are no numbers, tokenizers of other models: one clear refusal each."""

import io
import json
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipelines.checkpoint import check_checkpoint
from pipelines.download.archives import unpack
from pipelines.download.card import parse_card
from pipelines.finite import check_numbers
from registry.errors import SourceInvalid

DTYPES = {
    "F64": (np.array([1.0, np.nan, np.inf]), 2),
    "F32": (np.array([1.0, np.nan, np.inf], dtype="f4"), 2),
    "F16": (np.array([1.0, np.nan, -np.inf], dtype="f2"), 2),
    "BF16": (np.array([0x3F80, 0x7FC0, 0xFF80, 0xFFC1], dtype="u2"), 3),
    "F8_E5M2": (np.array([0x3C, 0x7D, 0xFE, 0x7C], dtype="u1"), 3),
    "F8_E4M3": (np.array([0x38, 0x7F, 0xFF, 0x7E], dtype="u1"), 2),
    "I32": (np.array([-1, 0x7FC00000], dtype="i4"), 0),
}


def write_tensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        begin = len(data)
        data += array.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [begin, len(data)],
        }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_and_an_infinity_are_found_in_each_type(tmp_path, dtype) -> None:
    array, count = DTYPES[dtype]
    fine = ("F32", np.zeros(3, dtype="f4"))
    write_tensors(tmp_path / "m.safetensors", {"a.weight": fine, "b.weight": (dtype, array)})
    told: list[float] = []
    if not count:
        check_numbers(tmp_path, where="it", on_bytes=told.append)
        return
    with pytest.raises(
        SourceInvalid, match=rf"b\.weight in m\.safetensors of it holds {count} NaN"
    ):
        check_numbers(tmp_path, where="it", on_bytes=told.append)
    assert sum(told) == 12 + array.nbytes


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil"])
@pytest.mark.parametrize("kind", ["a.tar.gz", "a.zip"])
def test_an_archive_that_leads_out_is_refused_whole(tmp_path, kind, name) -> None:
    archive = tmp_path / kind
    write_archive(archive, {"config.json": b"{}", name: b"evil", "m.safetensors": b""})
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    with pytest.raises(
        SourceInvalid, match=r"leads out of the folder\. Nothing of it was unpacked"
    ):
        unpack(archive, into, where="it")
    assert list(into.iterdir()) == []
    assert not list(tmp_path.rglob("*evil*"))


def write_archive(archive: Path, files: dict[str, bytes]) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_an_archive_is_refused(tmp_path, kind) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as packed:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        packed.addfile(info)
    with pytest.raises(SourceInvalid, match="'link', which is a link or no plain file"):
        unpack(archive, tmp_path, where="it")


@pytest.mark.parametrize("kind", ["a.tar.gz", "a.zip"])
def test_an_archive_with_one_folder_in_it_is_that_folder(tmp_path, kind) -> None:
    archive, into = tmp_path / kind, tmp_path / "into"
    into.mkdir()
    write_archive(archive, {"model/config.json": b"{}", "model/m.safetensors": b"abc"})
    assert unpack(archive, into, where="it") == into / "model"
    assert (into / "model" / "m.safetensors").read_bytes() == b"abc"


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.zip"])
def test_an_archive_that_is_none_or_cut_short_is_told(tmp_path, kind) -> None:
    archive = tmp_path / kind
    archive.write_bytes(b"no archive")
    with pytest.raises(SourceInvalid, match="cannot be read"):
        unpack(archive, tmp_path, where="it")


def test_a_pickle_in_an_archive_is_refused_before_it_is_unpacked(tmp_path) -> None:
    archive = tmp_path / "a.zip"
    write_archive(archive, {"m.safetensors": b"", "pytorch_model.bin": b"pickle"})
    with pytest.raises(SourceInvalid, match=r"pytorch_model\.bin"):
        unpack(archive, tmp_path, where="it")
    assert not (tmp_path / "pytorch_model.bin").exists()


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_tokenizer_of_another_model_is_refused_with_the_numbers(tiny_copy) -> None:
    folder = tiny_copy("other")
    check_checkpoint(folder, where="it")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer["added_tokens"].append({"id": rows + 4, "content": "<|new|>", "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    says = f"knows {rows + 5} tokens, but the embedding has {rows} rows"
    with pytest.raises(SourceInvalid, match=says):
        check_checkpoint(folder, where="it")


def test_a_configuration_of_another_model_is_refused_with_the_numbers(tiny_copy) -> None:
    folder = tiny_copy("other")
    edit(folder / "config.json", vocab_size=12)
    with pytest.raises(SourceInvalid, match=r"vocab_size 12, but the embedding has \d+ rows"):
        check_checkpoint(folder, where="it")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"\x80\x04\x95"),
        ("spiece.model", b"PK\x03\x04data.pkl"),
        ("readme", b"\x7fELF\x02"),
    ],
)
def test_a_file_that_is_another_thing_than_its_name_says_is_refused(
    tiny_copy, name, content
) -> None:
    folder = tiny_copy("poly")
    (folder / name).write_bytes(content)
    with pytest.raises(SourceInvalid, match=f"{name} of it begins like"):
        check_checkpoint(folder, where="it")


def test_safetensors_that_are_a_zip_archive_as_well_are_refused(tiny_copy, tmp_path) -> None:
    folder = tiny_copy("poly")
    with zipfile.ZipFile(folder / "model.safetensors", "a") as packed:
        packed.writestr("data.pkl", b"\x80\x04.")
    with pytest.raises(SourceInvalid, match="cut short or not a safetensors file"):
        check_checkpoint(folder, where="it")


@pytest.mark.parametrize("length", [2**63, 200_000_000, 10])
def test_a_header_that_says_more_or_less_than_there_is_is_refused(tiny_copy, length) -> None:
    folder = tiny_copy("header")
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(SourceInvalid, match="cut short or not a safetensors file"):
        check_checkpoint(folder, where="it")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("---\nlicense: mit\n---\n# A", {"licence": "mit"}),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", {"licence": "llama3"}),
        ("---\nlicense: other\n---\n", {"licence": "other"}),
        ("---\nbase_model:\n- a/b\n- c/d\n---\n", {"base_model": "a/b, c/d"}),
        ("# A card", {}),
        ("---\n[\n---\n", {}),
        ("---\njust words\n---\n", {}),
        ("---\nlicense: [mit", {}),
    ],
)
def test_a_card_states_its_licence_and_base(text, told) -> None:
    assert parse_card(text) == told


def test_a_damaged_byte_in_a_compressed_archive_is_found_by_its_checksum(tmp_path) -> None:
    archive, into = tmp_path / "a.tar.gz", tmp_path / "into"
    into.mkdir()
    write_archive(archive, {"m.safetensors": random.Random(0).randbytes(100_000)})
    content = bytearray(archive.read_bytes())
    content[50_000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(SourceInvalid, match="cannot be read"):
        unpack(archive, into, where="it")


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_an_archive_with_one_name_for_a_file_and_a_folder_is_told(tmp_path, kind) -> None:
    archive, into = tmp_path / kind, tmp_path / "into"
    into.mkdir()
    write_archive(archive, {"m.safetensors": b"", "m.safetensors/n.safetensors": b""})
    with pytest.raises(SourceInvalid, match="cannot be read"):
        unpack(archive, into, where="it")
