"""Every block of shell commands has its place in the table of kinds, and those that need no stack do what they say."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from deploy_targets.endpoint import endpoint_schema
from deploy_targets.guard.access_control import KeyList, hash_of
from tests.pages.kinds import ALONE, CHANGED, FOLDERS, KINDS, SAYS, Change, NotHere
from tests.pages.shell import (
    PAGES,
    Block,
    Shell,
    blocks,
    blocks_of,
    check_output,
    is_run,
    pages_of,
)
from tests.repo.reference import ROOT

pytestmark = pytest.mark.timeout(600)

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SECONDS = 500
"""A page takes eight at the most, alone; the rest is for a box that is busy with others."""
BEFORE = "source .venv/bin/activate"


@pytest.mark.parametrize("page", NAMES)
def test_each_block_of_a_page_has_its_kind_and_the_table_has_no_others(page: str) -> None:
    assert [block.name for block in blocks(page)] == [*KINDS.get(page, {})]


def test_the_table_names_pages_that_are_there() -> None:
    assert {*KINDS, *FOLDERS} <= {*NAMES}


def test_whatever_is_not_run_says_why() -> None:
    kinds = [kind for page in KINDS.values() for kind in page.values()]
    assert [kind for kind in kinds if isinstance(kind, NotHere) and not kind.reason] == []


@pytest.mark.parametrize("change", CHANGED, ids=lambda change: f"{change.page}: {change.old}")
def test_whatever_is_changed_is_in_a_block_that_is_run(change: Change) -> None:
    run = [block.text for block in blocks(change.page) if is_run(change.page, block)]
    assert [text for text in run if change.old in text]
    assert change.reason


def test_no_block_is_written_in_a_way_that_is_overlooked() -> None:
    """As `sh`, at the beginning of a line."""
    fence = r"^[ \t>]*(?:`{3,}|~{3,})[ \t]*(?:sh|bash|shell|console|zsh)\b"
    written = {
        page: len(re.findall(fence, (ROOT / page).read_text(), flags=re.MULTILINE))
        for page in NAMES
    }
    assert written == {page: len(blocks(page)) for page in NAMES}


def test_what_is_shown_as_output_follows_a_block_that_is_run() -> None:
    shown = Counter(
        page
        for page in NAMES
        for _ in re.findall(r"^```text$", (ROOT / page).read_text(), re.MULTILINE)
    )
    checked = Counter(
        page for page in NAMES for block in blocks(page) if block.shown and is_run(page, block)
    )
    assert shown == checked


@pytest.mark.parametrize(("page", "block"), SAYS, ids=str)
def test_what_a_block_is_said_to_print_is_in_the_text(page: str, block: str) -> None:
    assert block in {one.name for one in blocks(page) if is_run(page, one)}
    for phrase in SAYS[page, block]:
        assert phrase in (ROOT / page).read_text()


@pytest.mark.parametrize("page", pages_of(ALONE))
def test_the_blocks_that_need_no_stack_do_what_the_page_says(page: str, tmp_path: Path) -> None:
    typed = blocks_of(page, ALONE)
    shell = Shell(tmp_path / "project")

    outputs = shell.type(page, typed, before=BEFORE, seconds=SECONDS)

    for block in typed:
        check_output(page, block, outputs[block.name])


def test_the_keys_that_the_installation_makes_let_in_who_has_the_key(tmp_path: Path) -> None:
    page = "docs/install-kubernetes.md"
    shell = Shell(tmp_path / "project")
    [making] = [block for block in blocks_of(page, ALONE) if block.name.startswith("key=")]

    said = shell.type(page, [making], seconds=SECONDS)[making.name]

    written = (shell.folder / FOLDERS[page] / "keys.json").read_text()
    [key] = KeyList.model_validate_json(written).keys
    assert key.name == "team-a"
    assert hash_of(said.strip()) == key.sha256


def test_the_schema_for_editors_is_that_of_the_code(tmp_path: Path) -> None:
    page = "docs/reference.md"
    shell = Shell(tmp_path / "project")
    [writing] = [block for block in blocks_of(page, ALONE) if "endpoints schema" in block.name]

    shell.type(page, [writing], before=BEFORE, seconds=SECONDS)

    assert json.loads((shell.folder / "endpoints.schema.json").read_text()) == endpoint_schema()


def test_a_block_that_fails_or_prints_something_else_is_named(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "project")
    well, badly = (
        Block(name=text, text=f"{text}\n", shown="two\nth…e\n") for text in ("echo one", "false")
    )

    assert shell.type("a page", [well], seconds=SECONDS) == {"echo one": "one\n"}
    with pytest.raises(AssertionError, match="a page: `false` ended with 1"):
        shell.type("a page", [well, badly, well], seconds=SECONDS)
    with pytest.raises(AssertionError, match="a page shows\ntwo"):
        check_output("a page", well, "one\n")
    check_output("a page", well, "two\nthree\n")
