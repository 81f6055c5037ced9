"""The blocks that need the stack, page after page on one stack, from the tutorial's first to the reference's last.

Every page but the tutorial finds the stack running, with v2 serving and another version to go back to: so much the test
sees to between two pages.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy_targets.control_plane import read_endpoint_file, utc_now
from deploy_targets.load import LoadPlan
from deploy_targets.local import stack
from deploy_targets.local.compose import Composition
from deploy_targets.local.demo_traffic import Clients
from deploy_targets.local.home import Home
from registry.promotion import CHAMPION, MoveAlias
from tests.pages.kinds import ON_A_STACK, SMALLER
from tests.pages.shell import Block, Shell, blocks_of, check_output, pages_of
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.real, pytest.mark.engines, pytest.mark.timeout(1800)]

PAGES = pages_of(ON_A_STACK)
SECONDS = 1500
LIMIT_S = 300
ACTIVATE = "source .venv/bin/activate"
ENVIRONMENT = 'eval "$(shipway env)"'


class Reader:
    """Who goes on from page to page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shell = Shell(folder / "project")
        # As the demo does.
        self.shell.environment |= {"SHIPWAY_POLL_S": "5", "SHIPWAY_TICK_S": "1"}
        self.home = Home(self.shell.folder / ".shipway")
        self.file = self.shell.folder / "endpoints.yaml"
        for name, changes in SMALLER.items():
            file = self.shell.folder / name
            text = file.read_text()
            for old, (new, _) in changes.items():
                assert old in text
                text = text.replace(old, new)
            file.write_text(text)
        self.endpoints = self.file.read_text()

    def read(self, page: str) -> None:
        """Types what is on the page, and compares what it shows."""
        words = {} if page == PAGES[0] else self._get_ready()
        typed = [self._edited(block) for block in blocks_of(page, ON_A_STACK)]
        words |= {"checkpoint": str(self._model(page)), "python": str(self._python)}
        activates_itself = any(ACTIVATE in block.text for block in typed)
        before = "" if activates_itself else f"{ACTIVATE}\n{ENVIRONMENT}"
        outputs = self.shell.type(page, typed, before=before, words=words, seconds=SECONDS)
        for block in typed:
            check_output(page, block, outputs[block.name])

    @property
    def _python(self) -> Path:
        return self.shell.folder / ".venv" / "bin" / "python"

    def _model(self, page: str) -> Path:
        """Another one on each page, and so like the demo's that its gate says nothing against it."""
        folder = self.folder / Path(page).stem
        return write_tiny_model(folder, opinion=0.02 + 0.0001 * (1 + PAGES.index(page)))

    def _get_ready(self) -> dict[str, str]:
        """The stack runs on the endpoint file of before, and v2 serves."""
        self.file.write_text(self.endpoints)
        self._say("shipway up")
        composition = self._composition
        if composition.status(composition.file.endpoints[0]).hold:
            self._say("shipway resume chat")
        self._serve("2")
        return {
            "guard": self._composition.info.url("chat", "guard"),
            "tomorrow": (utc_now() + timedelta(days=1)).date().isoformat(),
        }

    def _edited(self, block: Block) -> Block:
        """The block after the endpoint file was given what the page shows before it, and was read."""
        if not block.piece:
            return block
        whole = yaml.safe_load(self.endpoints)
        _add(whole["endpoints"], yaml.safe_load(block.piece))
        edited = self.file.with_suffix(".edited")
        edited.write_text(yaml.safe_dump(whole, sort_keys=False))
        read = "" if "shipway up" in block.text else "shipway up\n"
        return replace(block, text=f"cp {edited.name} {self.file.name}\n{read}{block.text}")

    def _say(self, command: str) -> None:
        block = Block(name=command, text=command)
        self.shell.type("between two pages", [block], before=ACTIVATE, seconds=LIMIT_S)

    @property
    def _composition(self) -> Composition:
        info = stack.load_stack(self.home)
        assert info is not None
        return Composition(self.home, info, read_endpoint_file(self.file))

    def _serve(self, version: str) -> None:
        """Requests flow until that version serves alone, and nothing else is asked for."""
        composition = self._composition
        registry = composition.registry()
        [endpoint] = composition.file.endpoints
        plan = LoadPlan(
            url=composition.info.url("chat", "guard"),
            model="chat",
            api_key=self.home.secrets().api_key,
            requests=1_000_000,
            max_tokens=4,
        )

        def aliases() -> Mapping[str, str]:
            return registry.aliases(endpoint.model)

        def is_quiet() -> bool:
            status = composition.status(endpoint)
            return (
                aliases() == {CHAMPION: version}
                and status.challenger is None
                and status.traffic == {version: 100}
                and [*status.revisions] == [version]
            )

        asked = None if aliases().get(CHAMPION) == version else version
        if is_quiet():
            return
        registry.write(endpoint.model, MoveAlias(alias="challenger", version=asked))
        with Clients(plan):
            _until(is_quiet, lambda: composition.status(endpoint))


def _until(holds: Callable[[], bool], told: Callable[[], object]) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < LIMIT_S, told()
        time.sleep(0.2)


def _add(endpoints: list[dict[str, Any]], piece: Any) -> None:
    """A list is of endpoints; anything else is a part of the first."""
    if isinstance(piece, list):
        endpoints += piece
    else:
        _merge(endpoints[0], dict(piece))


def _merge(into: dict[str, Any], piece: Mapping[str, Any]) -> None:
    for name, value in piece.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("reader"))
    try:
        yield reader
    finally:
        stack.down(reader.home, announce=print)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_that_need_the_stack_do_what_the_page_says(page: str, reader: Reader) -> None:
    reader.read(page)
