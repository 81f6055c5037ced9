"""MLflow's UI as a person uses it, in a real browser: for the tests, and for the pictures in the documentation."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from PIL import Image

from tests.flows.test_the_stack import LIMIT_S

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CHROMIUM = shutil.which("chromium")
"""Debian's."""


@contextmanager
def a_browser(*, width: int, height: int) -> Generator["Page"]:
    """Its one page, in a window of so many pixels."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


class MlflowUi:
    """A person at MLflow's UI, who finds things by what is written on them."""

    def __init__(self, page: "Page", url: str, screenshots: Path) -> None:
        """`screenshots` is the folder that `keep` fills."""
        self._page = page
        self._url = url
        self._screenshots = screenshots

    def open(self, path: str, shown: str) -> None:
        self._page.goto(f"{self._url}/#/{path}")
        self._page.reload()
        self._text(shown).wait_for()
        # MLflow's assistant stands open at first and takes a quarter of the page.
        assistant = self._page.get_by_text("MLflow Assistant")
        assistant.first.wait_for(state="attached")
        if self._button("Close").count():
            self._button("Close").first.click()

    def choose_alias(self, model: str, version: str, alias: str) -> None:
        """In the dialog, which is not saved yet."""
        self.open(f"models/{model}/versions/{version}", f"Version {version}")
        self._button("Add").first.click()
        self._page.get_by_role("combobox").last.fill(alias)
        self._page.keyboard.press("Enter")

    def set_alias(self, model: str, version: str, alias: str) -> None:
        self.choose_alias(model, version, alias)
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

    def show_whole_description(self) -> None:
        """Of the run that is open, its picture included."""
        self._text("Show more").click()
        self._page.wait_for_timeout(1500)  # until it is drawn

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
        self._screenshots.mkdir(parents=True, exist_ok=True)
        with Image.open(BytesIO(self._page.screenshot())) as image:
            image.quantize(128).save(self._screenshots / f"{name}.png", optimize=True)

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
