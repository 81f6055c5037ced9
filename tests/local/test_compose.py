"""What a hundred endpoints share: clients that cost memory are made once."""

from pathlib import Path

import pytest

from deploy_targets import backends
from deploy_targets.endpoint import parse_endpoints
from deploy_targets.local.compose import Composition
from deploy_targets.local.home import Home
from deploy_targets.local.stack import StackInfo

NAMES = [f"e{number}" for number in range(20)]


def test_all_endpoints_share_one_s3_client_and_one_set_of_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(name: str) -> None:
        original = getattr(backends, name)
        monkeypatch.setattr(
            backends, name, lambda *rest, **more: (made.append(name), original(*rest, **more))[1]
        )

    counted("connect_s3")
    counted("trusted")
    ports = {
        f"{name}.{part}": 1 for name in NAMES for part in ("guard_admin", "envoy_admin", "envoy")
    }
    ports |= dict.fromkeys(("mlflow", "s3", "ray_dashboard", "ray_serve"), 1)
    text = "apiVersion: shipway/v1\nendpoints:\n" + "".join(
        f"- {{name: {name}, model: {name}}}\n" for name in NAMES
    )
    plane = Composition(
        Home(tmp_path / "home"),
        StackInfo(ports=ports, processes={}, endpoint_file="", endpoint_digest=""),
        parse_endpoints(text, origin="here"),
    )
    units = [plane.unit(endpoint) for endpoint in plane.file.endpoints]
    assert len(units) == len(NAMES)
    assert sorted(made) == ["connect_s3", "trusted"]
