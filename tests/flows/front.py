"""A real Envoy and a real guard in front of stub engines, and a Ray that does what it is told at once."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
from starlette.applications import Starlette
from starlette.routing import Mount

from deploy_targets.endpoint import Endpoint
from deploy_targets.local.adapter import LocalTarget
from deploy_targets.routing.traffic import Traffic
from tests.builders import a_release
from tests.guard.stub import StubEngine, served
from tests.local.platform import Platform, a_platform


class FakeRay:
    """Ray's list of applications: what was put is there, and ready."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, object]] = {}
        transport = httpx2.MockTransport(self._answer)
        self.client = httpx2.Client(transport=transport, base_url="http://ray")

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "PUT":
            put = json.loads(request.content)["applications"]
            self.applications = {
                one["name"]: {"status": "RUNNING", "deployed_app_config": one} for one in put
            }
        return httpx2.Response(200, json={"applications": self.applications})


@contextmanager
def a_front(folder: Path, endpoint: Endpoint, says: Mapping[str, str]) -> Iterator[Platform]:
    """The platform, until the end of the block; `says` is by version how its engine answers (`StubEngine`)."""
    engines = [Mount(f"/chat-v{version}", app=StubEngine(say).app) for version, say in says.items()]
    with served() as serve, a_platform(folder) as platform:
        platform.ports["ray_serve"] = int(serve(Starlette(routes=engines)).rpartition(":")[2])
        platform.start_front(endpoint)
        yield platform


def a_target(platform: Platform, endpoint: Endpoint, *versions: str) -> LocalTarget:
    """These versions applied, with all traffic to the first."""
    target = platform.target(endpoint, FakeRay().client)
    for version in versions:
        target.apply(a_release(version))
    target.shift(Traffic.all_to(versions[0]))
    return target
