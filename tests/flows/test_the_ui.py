"""The MLflow UI alone tells the story: a real browser clicks, and reads what becomes of it. Everything runs for real.

What it saw is left in `build/screenshots/`; those in `docs/images/` were taken from there. The browser is Debian's.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from deploy_targets.local import stack
from deploy_targets.local.home import Home
from registry.promotion import CHAMPION
from registry.release import DIGEST_TAG
from tests.builders import gate_tags
from tests.flows.test_the_stack import ENDPOINTS, LIMIT_S, Stack
from tests.repo.reference import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.real

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = ROOT / "build" / "screenshots"
_, _, CHAT = ENDPOINTS.partition("endpoints:\n")
BY_STAGE = CHAT.replace("name: chat", "name: staged").replace(
    "model: tiny", "model: small\n    promote: {stage: Production}"
)


class Walk(Stack):
    """Endpoint chat, asked by alias, and endpoint staged, asked by stage; two versions of each model, and none served."""

    def __init__(self, folder: Path, write: Callable[[Path, int], Path]) -> None:
        super().__init__(folder, ENDPOINTS + BY_STAGE)
        for seed in (1, 2):
            stored = self.store(write(folder / f"model{seed}", seed))
            tags = {DIGEST_TAG: str(stored.manifest.digest), **gate_tags()}
            for model in ("tiny", "small"):
                self.registry.register(model, source=stored.source, run_id=None, tags=tags)


class MlflowUi:
    """A person at MLflow's UI, who finds things by what is written on them."""

    def __init__(self, page: "Page", url: str) -> None:
        self._page = page
        self._url = url

    def open(self, path: str, shown: str) -> None:
        self._page.goto(f"{self._url}/#/{path}")
        self._page.reload()
        self._text(shown).wait_for()
        # MLflow's assistant stands open at first and takes a quarter of the page.
        assistant = self._page.get_by_text("MLflow Assistant")
        assistant.first.wait_for(state="attached")
        if self._button("Close").count():
            self._button("Close").first.click()

    def set_alias(self, model: str, version: str, alias: str) -> None:
        self.open(f"models/{model}/versions/{version}", f"Version {version}")
        self._button("Add").first.click()
        self._page.get_by_role("combobox").last.fill(alias)
        self._page.keyboard.press("Enter")
        self.keep("alias-dialog")
        self._button("Save aliases").click()
        self._text(f"@ {alias}").wait_for()

    def move_to_stage(self, model: str, version: str, stage: str) -> None:
        """By the menu that MLflow shows where its newer registry UI is switched off, in this browser."""
        self.open(f"models/{model}/versions/{version}", f"Version {version}")
        self._page.get_by_role("switch").click()
        self._button("Disable").click()
        self._page.get_by_text("None", exact=True).first.click()
        self._page.get_by_role("menuitem").filter(has_text=stage).click()
        self.keep("stage-dialog")
        self._button("OK").click()
        self._text(stage).wait_for()

    def open_run(self, experiment: str, name: str) -> None:
        """From the list of experiments to the run, once it is there."""
        self.open("experiments", "Experiments")
        self._text("Model training").click()
        self.until_shown(experiment)
        self._text(experiment).click()
        self.until_shown(name)
        self._text(name).click()
        self._text("About this run").wait_for()

    def see_chart(self, metric: str) -> None:
        self._page.get_by_role("tab", name="Model metrics").click()
        # Charts further down are not drawn before they are scrolled to.
        self._page.get_by_placeholder("Search metric charts").fill(f"{metric}|requests")
        self._text(f"({metric})").wait_for()

    def see_picture(self, name: str) -> None:
        self._page.get_by_role("tab", name="Artifacts").click()
        self._text(name).click()
        self._page.get_by_role("img", name=name).wait_for()

    def until_shown(self, *words: str) -> None:
        """As a person does it: look, reload, look again."""
        began = monotonic()
        while not all(self._is_shown(word) for word in words):
            assert monotonic() - began < LIMIT_S, (words, self._page.inner_text("body"))
            self._page.reload()

    def keep(self, name: str) -> None:
        """A screenshot in a palette: a third of the size, and nothing lost that one could see."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        with Image.open(BytesIO(self._page.screenshot())) as image:
            image.quantize(128).save(SCREENSHOTS / f"{name}.png", optimize=True)

    def _is_shown(self, text: str) -> bool:
        from playwright.sync_api import TimeoutError as TooLate

        try:
            self._text(text).wait_for(timeout=2000)
        except TooLate:
            return False
        return True

    def _text(self, text: str) -> "Locator":
        return self._page.get_by_text(text).filter(visible=True).first

    def _button(self, name: str) -> "Locator":
        return self._page.get_by_role("button", name=name)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    from tests.tiny_model import TEMPLATE, write_tiny_model

    def write(folder: Path, seed: int) -> Path:
        folder.mkdir()
        return write_tiny_model(folder, seed=seed, template=TEMPLATE)

    if CHROMIUM is None:
        pytest.skip("chromium is not installed: `apt-get install chromium` brings it")
    folder = tmp_path_factory.mktemp("ui")
    with ExitStack() as kept, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPWAY_TICK_S", "0.5")
        kept.callback(stack.down, Home(folder / "home"), announce=print)
        yield Walk(folder, write)


@pytest.fixture
def ui(walk: Walk) -> Iterator[MlflowUi]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(60_000)
        yield MlflowUi(page, walk.info.mlflow_url)
        browser.close()


def test_a_stage_that_is_set_in_the_ui_is_seen_to_be_promoted(walk: Walk, ui: MlflowUi) -> None:
    walk.point("challenger", "1")  # meanwhile, for the next test

    ui.move_to_stage("small", "1", "Production")

    ui.open_run("shipway/staged", "v- → v1")
    ui.until_shown("Finished", "it answered every smoke prompt")
    ui.keep("stage-run")
    ui.open("models/small/versions/1", "shipway.status")
    ui.until_shown("promoted")
    assert walk.registry.aliases("small") == {CHAMPION: "1"}
    assert walk.registry.version("small", "1").stage == "Production"


def test_an_alias_that_is_set_in_the_ui_is_seen_on_its_way_and_promoted(
    walk: Walk, ui: MlflowUi
) -> None:
    walk.until(lambda: walk.aliases == {CHAMPION: "1"})

    ui.set_alias("tiny", "2", "challenger")

    # Without requests it stays at its first step.
    ui.open_run("shipway/chat", "v1 → v2")
    ui.until_shown("Running", "weight_percent", "stepping")
    ui.keep("run-on-its-way")
    assert walk.status.traffic == {"1": 75, "2": 25}
    with walk.clients() as clients:
        ui.until_shown("Finished", "promoted")
    ui.keep("run-promoted")
    ui.see_chart("weight_percent")
    ui.keep("run-metrics")
    ui.see_picture("rollout.png")
    ui.keep("run-picture")
    ui.open("models/tiny/versions/2", f"@ {CHAMPION}")
    ui.until_shown("shipway.status", "promoted")
    ui.keep("version-promoted")
    assert walk.aliases == {CHAMPION: "2"}
    assert clients.report.failures == 0
