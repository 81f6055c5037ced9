"""The pages as a newcomer uses them: what they tell him to type is understood, and where they send him there is something."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.cli
import pytest
import typer
import yaml

from deploy_targets.cli import app
from deploy_targets.endpoint import parse_endpoints
from deploy_targets.rollout.state import Outcome, Phase
from tests.repo.reference import ROOT

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *DOCS]
GUIDES = [page for page in DOCS if page.stem == "tutorial" or page.stem.startswith("howto-")]
_OURS = ("shipway", "mlflow", "make", "python")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE
    )


def commands(page: Path) -> Iterator[list[str]]:
    """What its shell blocks run of ours, in words: also inside of `$(…)`, behind a pipe, or with variables before it."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            inner = re.findall(r"\$\(([^()]*)\)", line)
            for text in (line, *inner):
                try:
                    words = shlex.split(text, comments=True)
                except ValueError:  # the beginning of a text of several lines
                    continue
                for part in _parts(words):
                    if part and Path(part[0]).name in _OURS:
                        yield [Path(part[0]).name, *part[1:]]


def _parts(words: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in [*words, ";"]:
        if word in {"|", "&&", "||", ";", "&", ">"}:
            yield part
            part = []
        elif part or not re.fullmatch(r"[A-Z_]+=.*", word):
            part.append(word)


def understood(words: list[str]) -> None:
    """Raises where the program would refuse these words."""
    match words:
        case ["make", *targets]:
            known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            assert {one for one in targets if "=" not in one} <= known
        case ["python", "-m", module, *_] if module.startswith(
            ("pipelines", "registry", "deploy_targets")
        ):
            assert importlib.util.find_spec(module)
        case ["python", *_]:
            pass
        case ["mlflow", "run", ".", *options]:
            _check_run(options)
        case [program, *rest]:
            command: Any = {"shipway": typer.main.get_command(app), "mlflow": mlflow.cli.cli}[
                program
            ]
            while hasattr(command, "commands"):
                command = command.commands[rest.pop(0)]
            command.make_context(" ".join(words), rest)
        case _:
            raise AssertionError(words)


def _check_run(options: list[str]) -> None:
    entries = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    entry = entries[options[options.index("-e") + 1]]["parameters"]
    given = {options[at + 1].partition("=")[0] for at, one in enumerate(options) if one == "-P"}
    needed = {
        name for name, kind in entry.items() if not (isinstance(kind, dict) and "default" in kind)
    }
    assert needed <= given <= entry.keys()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_a_page_shows_is_understood(page) -> None:
    refused = []
    for words in commands(page):
        try:
            understood(words)
        except Exception as error:  # noqa: BLE001 - click has many
            refused.append(f"{' '.join(words)}: {error!r}")
    assert refused == []


def test_the_guides_show_commands() -> None:
    assert [name_of(page) for page in GUIDES if not list(commands(page))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_a_text_names_exists(page) -> None:
    """`shipway …` and `make …` in backticks: the command and its options, not what they are given."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)[ `]", text)) <= targets
    unknown = []
    for told in re.findall(r"`shipway ([a-z][^`]*)`", text):
        command: Any = typer.main.get_command(app)
        words = told.split()
        while words and hasattr(command, "commands"):
            name = words.pop(0)
            options = name.split("|")  # install|list|remove
            found = [command.commands.get(one) for one in options]
            if None in found:
                unknown.append(told)
                break
            command = found[0]
        known = {opt for one in command.params for opt in (*one.opts, *one.secondary_opts)} | {
            "--help"
        }
        unknown += [
            told for word in words if word.startswith("--") and word.split("=")[0] not in known
        ]
    assert unknown == []


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts and the site make it."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_anchor_that_a_page_links_to_is_there(page) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)]+)\)", page.read_text())
    lost = [
        f"{path}#{anchor}"
        for path, anchor in links
        if anchor not in anchors((page.parent / path).resolve() if path else page)
    ]
    assert lost == []


def test_the_site_lists_every_page_once() -> None:
    def pages(item: Any) -> Iterator[str]:
        if isinstance(item, str):
            yield item
        else:
            for one in item.values() if isinstance(item, dict) else item:
                yield from pages(one)

    # Without its tags, which name functions of mkdocs' world.
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"]
    listed = [page for page in pages(nav) if not page.startswith("project/")]
    assert sorted(listed) == [str(page.relative_to(ROOT / "docs")) for page in DOCS]


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_piece_of_an_endpoint_that_a_guide_shows_is_valid(page) -> None:
    for block in blocks(page, "yaml"):
        shown = yaml.safe_load(block)
        if isinstance(shown, dict):
            shown = [{"name": "shown", "model": "shown", **shown}]
        whole = {"apiVersion": "shipway/v1", "endpoints": shown}
        assert parse_endpoints(yaml.safe_dump(whole), origin=name_of(page)).endpoints


# The picture of a rollout

_ROLLOUT = ROOT / "deploy_targets" / "rollout"


def _named(node: ast.AST, kind: str) -> Iterator[str]:
    for one in ast.walk(node):
        if (
            isinstance(one, ast.Attribute)
            and isinstance(one.value, ast.Name)
            and one.value.id == kind
        ):
            yield one.attr.lower()


def _goes_to(node: ast.AST) -> set[str]:
    """The phases that it sets and the outcomes that it ends with; not those that it compares with."""
    found: set[str] = set()
    for call in (one for one in ast.walk(node) if isinstance(one, ast.Call)):
        for word in call.keywords:
            if word.arg == "phase":
                found |= set(_named(word.value, "Phase"))
        if isinstance(call.func, ast.Name) and call.func.id == "end_rollout":
            found |= set(_named(call, "Outcome"))
    return found


def moves_of_the_code() -> set[tuple[str, str]]:
    """From which phase `plan.py` and `follow.py` lead where."""
    plan = {
        one.name: one
        for one in ast.parse((_ROLLOUT / "plan.py").read_text()).body
        if isinstance(one, ast.FunctionDef)
    }
    follow = ast.parse((_ROLLOUT / "follow.py").read_text())
    by_phase = {
        next(iter(_named(case.pattern, "Phase"))): call.func.id
        for match in ast.walk(plan["advance"]) if isinstance(match, ast.Match)
        for case in match.cases
        for call in ast.walk(case) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }  # fmt: skip
    assert by_phase.keys() == {phase.value for phase in Phase}
    moves: set[tuple[str, str]] = set()
    for phase, function in by_phase.items():
        reached = [plan[function]]
        reached += [plan[name] for name in ("_set_back",) if any(
            isinstance(one, ast.Name) and one.id == name for one in ast.walk(plan[function])
        )]  # fmt: skip
        moves |= {(phase, to) for node in reached for to in _goes_to(node)}
        # Whoever may end any rollout: the registry, an operator, the endpoint file.
        anywhere = {"withdrawn", "superseded", "rolled_back"}
        assert anywhere == set(_named(follow, "Outcome"))
        moves |= {(phase, to) for to in anywhere}
    held = _goes_to(plan["advance"])
    assert held == {"stepping"}
    return moves | {
        ("completing", "stepping"),
        ("stepping", "stepping"),
    }  # the next step of `_step`


def test_the_picture_of_a_rollout_has_the_moves_of_the_code_and_no_others() -> None:
    (picture,) = blocks(ROOT / "docs" / "state-machine.md", "mermaid")
    shown = re.findall(r"^ +(\w+) --> (\w+)\b", picture, flags=re.MULTILINE)
    phases = [phase.value for phase in Phase]
    arrows = {
        (begin, end) for one, end in shown for begin in (phases if one == "under_way" else [one])
    }
    ends = set(re.findall(r"^  (\w+) --> \[\*\]", picture, flags=re.MULTILINE))
    assert arrows == moves_of_the_code()
    assert ends == {outcome.value for outcome in Outcome}
