"""A page's blocks, and a shell of one's own in a copy of the project in which they are typed, one after the other."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.pages.kinds import (
    CHANGED,
    FOLDERS,
    GIVEN,
    KINDS,
    SAYS,
    WRITTEN,
    Change,
    NotHere,
    Run,
)
from tests.repo.reference import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
_COPIED = (
    "MLproject",
    "python_env.yaml",
    "Makefile",
    "endpoints.yaml",
    "examples",
    "recipes",
    "deploy_targets/install/controller",
    "deploy_targets/install/example",
    "deploy_targets/install/rights",
)
_MARK = "\x1e"
_LEFT_OUT = "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of shell commands, and what the page shows of its output."""

    name: str
    """Its first line, without a comment at its end."""
    text: str
    shown: str = ""
    """The block of text that follows it; empty where none does."""
    piece: str = ""
    """The YAML that stands before it, since the block before; the first, where there are several."""


def blocks(page: str) -> list[Block]:
    """The page's blocks of shell commands, from its top on."""
    fenced = re.findall(
        r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE
    )
    found: list[Block] = []
    piece = ""
    for (language, text), (following, shown) in pairwise([*fenced, ("", "")]):
        if language == "yaml":
            piece = piece or text
        if language == "sh":
            name = re.split(r"\s+#", text.split("\n", 1)[0])[0]
            output = shown if following == "text" else ""
            found.append(Block(name=name, text=text, shown=output, piece=piece))
            piece = ""
    return found


def blocks_of(page: str, kind: Run) -> list[Block]:
    """Those that are run in that way, in the order of the page."""
    return [block for block in blocks(page) if KINDS[page][block.name] is kind]


def pages_of(kind: Run) -> list[str]:
    """The pages with such blocks, in the order of the table."""
    return [page for page, kinds in KINDS.items() if kind in kinds.values()]


def is_run(page: str, block: Block) -> bool:
    """Whether it is run at all."""
    return not isinstance(KINDS[page][block.name], NotHere)


def changes(page: str) -> list[Change]:
    """What differs from the page."""
    return [change for change in CHANGED if change.page == page]


def changed(page: str, text: str, words: Mapping[str, str]) -> str:
    """A block as it is typed here; `words` is what stands for the names in braces."""
    for change in changes(page):
        new = change.new
        for name, word in words.items():
            new = new.replace(f"{{{name}}}", word)
        text = text.replace(change.old, new)
    return text


class Shell:
    """A terminal in a copy of the project, without our environment on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in _COPIED:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, target)
        for name, source in GIVEN.items():
            shutil.copy(ROOT / source, folder / name)
        for name, text in WRITTEN.items():
            (folder / name).write_text(text)
        (folder / ".venv").symlink_to(sys.prefix)
        ours = str(Path(sys.prefix) / "bin")
        path = [one for one in os.environ["PATH"].split(os.pathsep) if one != ours]
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def type(
        self,
        page: str,
        typed: list[Block],
        *,
        before: str = "",
        words: Mapping[str, str] | None = None,
        seconds: float,
    ) -> dict[str, str]:
        """What each block printed. Each of its commands must end well, an answer of HTTP included."""
        script = ["set -eo pipefail", 'curl() { command curl --fail-with-body "$@"; }', before]
        script.append(f"cd {FOLDERS.get(page, '.')}")
        for block in typed:
            script += [f"printf '{_MARK}'", changed(page, block.text, words or {})]
        file = self.folder / "typed.sh"
        file.write_text("\n".join(script))
        process = subprocess.Popen(
            ["bash", str(file)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
        outputs = said.split(_MARK)[1:]
        last = typed[len(outputs) - 1].name if outputs else before
        assert process.returncode == 0, f"{page}: `{last}` ended with {process.returncode}\n{said}"
        return dict(zip((block.name for block in typed), outputs, strict=True))


def check_output(page: str, block: Block, output: str) -> None:
    """Each line that the page shows is a line of the output, and what its text promises is in it."""
    lines = output.splitlines()
    for line in block.shown.splitlines():
        like = ".*".join(re.escape(part) for part in line.split(_LEFT_OUT))
        assert any(re.fullmatch(like, one) for one in lines), f"{page} shows\n{line}\n{output}"
    for phrase in SAYS.get((page, block.name), ()):
        assert phrase in output, f"{page} says that `{phrase}` is shown\n{output}"
