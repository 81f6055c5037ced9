"""The pictures of MLflow's UI in docs/images, taken anew: `python -m tests.repo.pictures`, after `make demo`.

They show what that stack has: the model with its aliases, the dialog that sets one, the newest rollout that was promoted in the
place of another version, and the newest one that was rolled back. Nothing is changed. The browser is Debian's chromium.
"""

from pathlib import Path

from deploy_targets.local.compose import Composition
from deploy_targets.rollout.journal import PastRollout, past_rollouts
from tests.flows.mlflow_ui import MlflowUi, a_browser
from tests.repo.reference import ROOT


def main() -> None:
    """Takes all of them."""
    composition = Composition.of_running_stack(Path("endpoints.yaml"))
    endpoint = composition.file.endpoints[0]
    past = past_rollouts(composition.tracking(), endpoint, limit=50)
    with a_browser(width=1280, height=1440) as page:
        ui = MlflowUi(page, composition.info.mlflow_url, ROOT / "docs" / "images")
        for name, status in (("ui-promoted", "promoted"), ("ui-rolled-back", "rolled_back")):
            ui.open(f"runs/{_newest(past, status).run_id}", "About this run")
            ui.show_whole_description()
            ui.keep(name)
        page.set_viewport_size({"width": 1280, "height": 1240})
        ui.open(f"models/{endpoint.model}", "champion")
        ui.keep("ui-model")
        page.set_viewport_size({"width": 1280, "height": 800})
        ui.choose_alias(endpoint.model, _newest(past, "rolled_back").version, "challenger")
        ui.keep("ui-alias")


def _newest(past: tuple[PastRollout, ...], status: str) -> PastRollout:
    return next(one for one in past if one.status == status and one.champion != "none")


if __name__ == "__main__":
    main()
