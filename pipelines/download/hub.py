"""A model hub that speaks Hugging Face's API: which files a repository has at one commit, and their bytes.

`huggingface_hub` says where the hub is, who we are and what a repository holds. Its own download begins a file anew
after a kill, so the bytes come by `parts`. Its Xet protocol is not used: each file is also had by plain ranges.
"""

import fnmatch
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.checkpoint import check_names
from pipelines.download.card import CARD_FILES
from registry.errors import SourceInvalid, Unavailable
from registry.parts import RemoteFile

_CHECKPOINT_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "chat_template.jin*", "chat_template.json",
)  # fmt: skip
"""What is fetched of a repository: the checkpoint at its top level, and nothing that could be executed."""
_CODE = ("*.py", "*.pyc", "*.so")
_TIMEOUT_S = 60
_PARTIAL = 206
_LATER = frozenset({408, 429, 500, 502, 503, 504})
"""Answers that say: come again."""


class Hub:
    """The hub that `HF_ENDPOINT` names, asked with `HF_TOKEN`."""

    def resolve(self, repository: str, revision: str) -> str:
        """The commit that a branch or a tag means now.

        Raises:
            SourceInvalid: the hub has no such repository or revision, or does not let us see it.
            Unavailable: it does not answer.
        """
        from huggingface_hub import HfApi

        with _answering(f"hub://{repository}@{revision}"):
            found = HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT_S)
        if not found.sha:
            message = f"The hub does not say which commit {revision} of {repository} is. Name the commit itself."
            raise SourceInvalid(message)
        return found.sha

    def files(self, repository: str, commit: str, *, file: str | None) -> tuple[RemoteFile, ...]:
        """The files to fetch: the checkpoint and its card, or with `file` that one and the card.

        Raises:
            SourceInvalid: there is no such file or no safetensors checkpoint, or the hub refuses.
            Unavailable: it does not answer.
        """
        from huggingface_hub import HfApi

        where = f"hub://{repository}@{commit}"
        with _answering(where):
            info: Any = HfApi().model_info(
                repository, revision=commit, files_metadata=True, timeout=_TIMEOUT_S
            )
        names = [str(sibling.rfilename) for sibling in info.siblings or ()]
        if file is not None and file not in names:
            message = f"{where} has no file {file!r}. Look at its list of files."
            raise SourceInvalid(message)
        if file is None and not any(
            name.endswith(".safetensors") for name in names if "/" not in name
        ):
            check_names(names, where=where)
        wanted = [
            sibling
            for sibling in info.siblings
            if sibling.rfilename == file or _is_wanted(sibling.rfilename, of_checkpoint=not file)
        ]
        return tuple(_file(repository, commit, sibling) for sibling in wanted)


def _is_wanted(name: str, *, of_checkpoint: bool) -> bool:
    patterns = (*_CHECKPOINT_FILES, *CARD_FILES) if of_checkpoint else CARD_FILES
    return (
        "/" not in name
        and not any(fnmatch.fnmatchcase(name, code) for code in _CODE)
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    )


def _file(repository: str, commit: str, sibling: Any) -> RemoteFile:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repository, sibling.rfilename, revision=commit)
    large = sibling.lfs
    where = f"hub://{repository}@{commit}/{sibling.rfilename}"
    if sibling.size is None or not (large or sibling.blob_id):
        message = (
            f"The hub does not say the size and the digest of {where}, so it cannot be verified."
        )
        raise SourceInvalid(message)

    def read(start: int, stop: int) -> Iterator[bytes]:
        import huggingface_hub.utils as of_hub

        client: Any = of_hub
        # The address that this leads to is signed and lives for minutes, so each part asks anew.
        headers = {
            **client.build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity",
        }  # fmt: skip
        with (
            _answering(where),
            client.get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as answer,
        ):
            if answer.is_error:
                answer.read()
            client.hf_raise_for_status(answer)
            if answer.status_code != _PARTIAL and start > 0:
                message = (
                    f"The hub sent {where} from its beginning, not from byte {start}. Run again."
                )
                raise Unavailable(message)
            yield from answer.iter_raw()  # in pieces of any size, none of them held back

    return RemoteFile(
        path=sibling.rfilename,
        size_bytes=int(sibling.size),
        tag=str(large.sha256 if large else sibling.blob_id),
        read=read,
        sha256=str(large.sha256) if large else None,
        git_blob=None if large else str(sibling.blob_id),
    )


def _without_query(told: str) -> str:
    """`told` without what follows `?` in addresses: large files come from signed ones, and errors go into MLflow."""
    return re.sub(r"\?[^\s'\")]*", "", told)


@contextmanager
def _answering(where: str) -> Generator[None]:
    """Turns the hub client's exceptions into ours; a full disk passes through."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        told = _without_query(str(error))[:300]
        if error.response.status_code in _LATER:
            message = f"The hub is busy and did not give {where} ({told}). Run again: what has arrived is kept."
            raise Unavailable(message) from error
        message = (
            f"The hub refused {where} ({told}). "
            "Look at the name and the revision; a gated model needs HF_TOKEN, and a token may have expired. "
            "What has arrived is kept."
        )
        raise SourceInvalid(message) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        message = f"The hub did not answer for {where} ({_without_query(str(error))[:300]}). Look at the network, then run again."
        raise Unavailable(message) from error
