"""The table of parsers. A target is given bytes, calls its parser as the product does, says whether they were taken, and raises
where a claim does not hold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import answers, bodies, hints, stored, written_files
from tests.fuzz.claims import in_time
from tests.fuzz.mutations import Form, json_form, no_form, yaml_form

CORPUS = Path(__file__).parent / "corpus"

_YAML = (
    b"&a ", b"*a", b"<<: *a", b"!!timestamp x", b"!!int ''", b"!!bool x", b"!!float ''", b"!!binary x", b"!!set {a}",
    b"!!omap [a]", b"!!pairs [a]", b"!!null x", b'"\\ud800"', b"? ", b"---\n", b"...\n", b"%YAML 1.1\n", b"{", b"}", b"[", b"]",
    b": ", b"- ", b"null", b".inf", b".nan", b"1e999", b"0x", b"1:1", b"2001-01-01", b"~", b"|\n", b"'", b"\xc2\x85", b"\xef\xbb\xbf",
)  # fmt: skip
_JSON = (
    b"NaN", b"-Infinity", b"1e999", b"1" + b"0" * 400, b"-0", b"1.0", b"true", b"null", b"[" * 600, b"]" * 600, b'{"a":' * 600,
    b'"\\ud800"', b'"\\u0000"', b"{}", b"[]", b'""', b",", b":", b'"', b"\xed\xa0\x80", b"\xef\xbb\xbf", b"9223372036854775808",
)  # fmt: skip
_TEXT = (
    b"id-1234", b"project falcon", b"AKIA" + b"IOSFODNN7EXAMPLE", b"4111 1111 1111 1111", b"anna@example.com", b"192.0.2.1",
    b"\xe2\x80\x8b", b"\xc2\xad", b"\xef\xbd\x81", b"\xf0\x9d\x9a\x8a", b"\xd9\xa0", b"\xcc\x81", b"\xc4\xb0", b"\xe2\x80\xae",
    b"\0", b"\1\1\1\0", b"abbc", b"12345",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser."""

    check: Callable[[bytes], bool]
    words: tuple[bytes, ...]
    """What mutations put in."""
    form: Form = no_form
    """What its inputs are, as far as that helps to change them."""

    def run(self, data: bytes) -> bool:
        """Whether the parser takes this input; either way all claims hold for it, or this raises."""
        return in_time(lambda: self.check(data))


TARGETS: Mapping[str, Target] = {
    "digest": Target(check=written_files.digest, words=(b"sha256:", b"0" * 64)),
    "source": Target(
        check=written_files.source,
        words=tuple(b"hub:// s3:// file:// package:// models:/ runs:/ ~x @ .. \0 __main__".split()),
    ),
    "feedback": Target(
        check=bodies.feedback, form=json_form, words=(*_JSON, b'"score"', b'"id"', b'"good"')
    ),
    "engine_body": Target(
        check=bodies.engine_body, form=json_form, words=(*_JSON, b'"stop"', b'"content"')
    ),
    "chat": Target(
        check=bodies.chat,
        form=json_form,
        words=(*_JSON, *_TEXT, b'"stop"', b'"response_format"', b'"$ref"'),
    ),
    "completion": Target(
        check=bodies.completion, form=json_form, words=(*_JSON, b'"prompt"', b'"echo"')
    ),
    "keys": Target(
        check=bodies.keys, form=json_form, words=(*_JSON, b"\0", b"Bearer ", b'"limits"')
    ),
    "delivery": Target(
        check=hints.delivery,
        form=json_form,
        words=(*_JSON, b"\0", b"v1,", b"1795608000", b'"at"', b"\xb2"),
    ),
    "state": Target(
        check=stored.state,
        form=json_form,
        words=(*_JSON, b'"schema": 1', b'"rollout"', b'"unreported"'),
    ),
    "manifest": Target(
        check=stored.manifest,
        form=json_form,
        words=(*_JSON, b'"path"', b'"size_bytes"', b"../", b"-1"),
    ),
    "scrape": Target(
        check=stored.scrape,
        words=(b" 1\n", b"# TYPE ", *b'\0 NaN +Inf -1 1e400 { } " \\ , le= version='.split()),
    ),
    "checkpoint": Target(
        check=stored.checkpoint,
        form=json_form,
        words=(
            *_JSON,
            b"config.json\n",
            b"tokenizer.json\n",
            b"model.safetensors\n",
            b"model.safetensors.index.json\n",
            b"weight_map",
        ),
    ),
    "triton_events": Target(
        check=answers.triton_events, form=json_form, words=(*_JSON, b"data: ", b"\n", b'"error"')
    ),
    "stream": Target(
        check=answers.stream,
        form=json_form,
        words=(*_JSON, b"data: ", b"\n\n", b"[DONE]", b"\r", b'"choices"', b"id-1", b"234"),
    ),
    "observations": Target(
        check=written_files.observations,
        form=json_form,
        words=(*_JSON, b"\n", b'"+Inf"', b'"series"'),
    ),
    "recipe": Target(check=written_files.recipe, form=yaml_form, words=(*_YAML, b"method: ")),
    "adapter": Target(check=written_files.adapter, form=yaml_form, words=(*_YAML, b"targets: ")),
    "policy": Target(check=written_files.policy, form=yaml_form, words=(*_YAML, b"metrics: ")),
    "scenario": Target(
        check=written_files.scenario, form=yaml_form, words=(*_YAML, b"ramp: ", b"5e-324")
    ),
    "schedules": Target(
        check=written_files.schedules,
        form=yaml_form,
        words=(
            *_YAML,
            b"* * * * *",
            b"30 2 30 2 *",
            b"*/9",
            b"FRI",
            b"\xd9\xa1",
            b"\xc5\xbfun",
            b"Europe/Berlin",
            b"\0",
        ),
    ),
    "endpoints": Target(
        check=written_files.endpoints,
        form=yaml_form,
        words=(*_YAML, b"guard: ", b"rules: ", b"pattern: "),
    ),
    "text_in_pieces": Target(check=answers.text_in_pieces, words=_TEXT),
}
"""The cheapest first, as far as was measured."""


def corpus_of(name: str) -> dict[str, bytes]:
    """The kept inputs of a target by the names of their files."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}
