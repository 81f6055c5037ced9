"""What is read back from stores and other processes: saved states, manifests, metrics pages, checkpoints."""

import atexit
import json
import math
import struct
from functools import cache
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from deploy_targets.rollout.observe import combined, difference, parse_scrape
from deploy_targets.rollout.state import NoData, Scrape
from deploy_targets.rollout.store import dump_state, parse_state
from pipelines.checkpoint import block_in_features, check_checkpoint
from registry.errors import IntegrityError, SourceInvalid, StateUnreadable
from registry.release import ArtifactManifest, parse_digest
from tests.builders import NOON
from tests.fuzz.claims import check_refusal, claim, text_of

_WHERE = "the checkpoint"


def state(data: bytes) -> bool:
    """A saved state, of whichever schema; the next save writes it anew."""
    try:
        read = parse_state(data)
    except StateUnreadable as error:
        check_refusal(error, data)
        return False
    dumped = dump_state(read)
    claim(dump_state(parse_state(dumped)) == dumped, "another state", dumped)
    return True


def manifest(data: bytes) -> bool:
    """The manifest of an artifact in S3: as it is, and with the digest of whatever files it names."""
    return _manifest(data) | _manifest(_with_its_digest(data))


def _with_its_digest(data: bytes) -> bytes:
    try:
        document = json.loads(data)
        files = sorted((f["path"], f["digest"], f["size_bytes"]) for f in document["files"])
        listing = "".join(f"{digest} {size} {path}\n" for path, digest, size in files)
        document["digest"] = f"sha256:{sha256(listing.encode()).hexdigest()}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return data
    return json.dumps(document).encode()


def _manifest(data: bytes) -> bool:
    try:
        read = ArtifactManifest.from_json(data)
    except IntegrityError as error:
        check_refusal(error, data)
        return False
    claim(ArtifactManifest.from_json(read.to_json()) == read, "another manifest", read)
    claim(parse_digest(read.digest) == read.digest, read)
    claim(all(file.size_bytes >= 0 for file in read.files), "less than nothing", read)
    return True


def scrape(data: bytes) -> bool:
    """Metrics pages, NUL between two: as of guards that are read together, and as of one that is read again."""
    readings: list[Scrape] = []
    for page in data.split(b"\0"):
        try:
            reading = parse_scrape(text_of(page), endpoint="chat", at=NOON)
        except (
            ValueError
        ):  # prometheus_client's own have no words at times; `GuardMetrics` adds what to do
            continue
        readings.append(reading)
        for counts in reading.totals.values():
            claim(math.isfinite(counts.duration_s), "no duration", counts)
    for before, after in zip([None, *readings], readings, strict=False):
        seen = difference(before, after)
        if not isinstance(seen, NoData):
            for step in seen.increments.values():
                claim(step.requests >= step.errors >= 0 and step.judged >= step.bad >= 0, step)
    if readings:
        combined(readings)
    return bool(readings)


def checkpoint(data: bytes) -> bool:
    """One file of an otherwise good checkpoint: its name in the first line, and what is in it."""
    name, _, content = data.partition(b"\n")
    folder, good = _good_checkpoint()
    file = folder / name.decode("latin-1")
    if file.name not in {*good, "model.safetensors.index.json", "chat_template.jinja"}:
        return False
    file = folder / file.name
    file.write_bytes(content)
    try:
        check_checkpoint(folder, where=_WHERE)
        widths = block_in_features(folder)
        claim(all(width >= 0 for width in widths.values()), widths)
    except SourceInvalid as error:
        check_refusal(error, data, named=_WHERE)
        return False
    finally:
        if file.name in good:
            file.write_bytes(good[file.name])
        else:
            file.unlink()
    return True


@cache
def _good_checkpoint() -> tuple[Path, dict[str, bytes]]:
    """Written once in a process; four rows, two layers."""
    shapes = {"model.embed_tokens.weight": [4, 2], "model.layers.0.up_proj.weight": [2, 2]}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    good = {
        "config.json": b'{"vocab_size": 4}',
        "tokenizer.json": b'{"model": {"vocab": {"a": 0, "b": 3}}}',
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
        "model.safetensors": struct.pack("<Q", len(text)) + text + b"\0" * at,
    }
    folder = Path(mkdtemp(prefix="fuzz-"))
    atexit.register(rmtree, folder)
    for name, content in good.items():
        (folder / name).write_bytes(content)
    check_checkpoint(folder, where=_WHERE)
    return folder, good
