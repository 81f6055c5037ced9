"""Whether a prompt can fit into the model's context at all, by the model's own tokenizer.

What is counted is the messages' text alone. The chat template puts more around it, so a prompt that is refused here is
too long for certain, and one that is let through may still be refused by the engine, which counts all of it. Counting
costs about a millisecond for some kilobytes: it is left out where the number of bytes already says that it fits.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from deploy_targets.guard.errors import ContextTooLong

Count = Callable[[str], int]
"""How many tokens a text has."""


def check_context(texts: Sequence[str], *, answer_tokens: int, tokens: int, count: Count) -> None:
    """Nothing, where the texts and so many tokens of an answer may fit into `tokens`.

    A token stands for one byte at the least, so that as many bytes as tokens always fit.

    Raises:
        ContextTooLong: they do not.
    """
    left = tokens - answer_tokens
    stripped = [text.strip() for text in texts]  # as some templates do
    if sum(len(text.encode()) for text in stripped) <= left:
        return
    prompt = sum(map(count, stripped))
    if prompt > left:
        message = (
            f"messages: the context is {tokens} tokens. The messages have {prompt}, and {answer_tokens} were asked for "
            "in the answer. Shorten the messages or lower max_tokens."
        )
        raise ContextTooLong(message, param="messages")


def tokenizer_count(path: Path) -> Count:
    """Counts by the tokenizer.json at `path`, without the tokens that a tokenizer adds around a text.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    from tokenizers import Tokenizer

    spelled = path.read_text(encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_str(spelled)
    except Exception as error:  # it raises nothing more precise
        message = f"{path} is no tokenizer.json: {error}"
        raise ValueError(message) from error
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
