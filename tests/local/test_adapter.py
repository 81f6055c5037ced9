"""What the local target makes of a Ray that is not one. All else is asked of the real one, in `tests/contracts`."""

from pathlib import Path

import httpx2
import pytest

from deploy_targets.local.adapter import LocalTarget
from deploy_targets.local.split import Split
from registry.errors import TargetUnavailable
from tests.builders import a_release, an_endpoint


@pytest.mark.parametrize("body", ["{}", "", "null", "[]", "<html>Please sign in</html>"])
def test_an_answer_without_applications_is_not_taken_for_none_being_there(
    tmp_path: Path, body: str
) -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.method)
        return httpx2.Response(200, text=body)

    http = httpx2.Client(transport=httpx2.MockTransport(answer), base_url="http://ray")
    target = LocalTarget(
        an_endpoint(),
        ray=http,
        split=Split(an_endpoint(), admin=http, folder=tmp_path),
        serve_port=1,
        folder=tmp_path,
        lock_file=tmp_path / "lock",
    )
    with pytest.raises(TargetUnavailable):
        target.observe()
    with pytest.raises(TargetUnavailable):
        target.apply(a_release("7"))
    assert "PUT" not in asked
