"""The MLflow UI alone tells the story: a real browser clicks, and reads what becomes of it. Everything runs for real.

What it saw is left in `build/screenshots/`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy_targets.local import stack
from deploy_targets.local.home import Home
from registry.promotion import CHAMPION
from registry.release import DIGEST_TAG
from tests.builders import gate_tags
from tests.flows.mlflow_ui import CHROMIUM, MlflowUi, a_browser
from tests.flows.test_the_stack import ENDPOINTS, Stack
from tests.repo.reference import ROOT

pytestmark = pytest.mark.real

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
    with a_browser(width=1280, height=800) as page:
        yield MlflowUi(page, walk.info.mlflow_url, SCREENSHOTS)


def test_a_stage_that_is_set_in_the_ui_is_seen_to_be_promoted(walk: Walk, ui: MlflowUi) -> None:
    walk.point("challenger", "1")  # meanwhile, for the next test

    ui.move_to_stage("small", "1", "Production")

    ui.open_run("shipway/staged", "first → v1")
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
