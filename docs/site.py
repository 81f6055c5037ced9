"""Hooks of `mkdocs.yml`: the pages at the project's top are pages of the site as well, and links out of docs/ lead there.

A link to a file that is no page (code, recipes) has no place in the site: its words stay.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
}
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?://|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the top."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page with links as the site has them."""
    uri = page.file.src_uri
    origin = next((one for one, there in PAGES.items() if there == uri), f"docs/{uri}")

    def led(link: re.Match[str]) -> str:
        words, path, anchor = link[1], link[2], link[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        if target in PAGES:
            target = f"docs/{PAGES[target]}"
        elif not target.startswith("docs/") or (ROOT / target).is_dir():
            return words
        there = posixpath.relpath(target, posixpath.dirname(f"docs/{uri}"))
        return f"[{words}]({there}{anchor})"

    return _LINK.sub(led, markdown)
