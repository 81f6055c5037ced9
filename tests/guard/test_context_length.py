"""Whether a prompt can fit into the model's context."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from deploy_targets.guard.context_length import check_context, tokenizer_count
from deploy_targets.guard.errors import ContextTooLong


def never(text: str) -> int:
    raise AssertionError(text)


def test_what_has_fewer_bytes_than_there_is_room_is_not_counted() -> None:
    check_context(["\u00e9" * 10, "  "], answer_tokens=12, tokens=32, count=never)


def test_a_prompt_is_refused_where_its_own_tokens_do_not_fit() -> None:
    def words(text: str) -> int:
        return len(text.split())

    check_context(["long words only"] * 3, answer_tokens=1, tokens=10, count=words)
    with pytest.raises(ContextTooLong, match="have 9, and 2 were asked") as refused:
        check_context(["long words only"] * 3, answer_tokens=2, tokens=10, count=words)
    assert refused.value.code == "context_length_exceeded"


def test_tokens_are_counted_by_the_models_own_file(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(2)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    assert tokenizer_count(path)("a b c d") == 4


def test_a_file_that_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        tokenizer_count(path)
    with pytest.raises(OSError, match="missing"):
        tokenizer_count(tmp_path / "missing.json")
