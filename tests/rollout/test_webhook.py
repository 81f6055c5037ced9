"""Where MLflow would not call the controller, `shipway webhook` and `shipway doctor` say so, and what to set."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography.fernet import Fernet
from typer.testing import CliRunner

from deploy_targets.local.process import free_port
from deploy_targets.rollout.webhook import HOOK_NAME, HookAddress, check_hook, install_hook
from deploy_targets.rollout.webhook_commands import webhook_app
from registry.mlflow_registry import MlflowRegistry
from registry.settings import RegistrySettings
from registry.tracking import connect_mlflow
from tests.servers import Receiver, Servers, start_mlflow

pytestmark = pytest.mark.real


class Plane:
    """The world of the session's servers."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.secret = servers.webhook_secret

    def registry(self) -> MlflowRegistry:
        return self.servers.registry

    def hook_address(self) -> HookAddress:
        url = f"http://127.0.0.1:{self.servers.controller_port}/"
        return HookAddress(controller_url=url, secret=self.secret)


@pytest.fixture
def plane(servers: Any) -> Iterator[Plane]:
    yield Plane(servers)
    servers.registry.remove_webhook(HOOK_NAME)


@pytest.fixture
def shipway(plane: Plane) -> Callable[..., tuple[int, str]]:
    app: typer.Typer = webhook_app(lambda _: plane)

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, words)
        return done.exit_code, done.output

    return run


def test_it_is_installed_once_listed_and_removed(
    plane: Plane, shipway: Callable[..., tuple[int, str]]
) -> None:
    with Receiver(plane.servers.controller_port, plane.secret) as receiver:
        assert shipway("install")[0] == 0
        code, said = shipway("install")
        assert code == 0
        assert "arrive" in said
        assert receiver.woken.is_set()
        code, said = shipway("list")
        assert code == 0
        (line,) = [line for line in said.splitlines() if line.startswith("shipway ")]
        assert "/hooks/mlflow model_version.created, model_version_alias.created" in line
        assert shipway("remove") == (0, "Removed.\n")
        assert shipway("remove") == (0, "There was none.\n")
        code, said = shipway("list")
        assert code == 1
        assert "shipway webhook install" in said


def test_a_controller_that_is_away_or_has_another_secret_is_told_apart(
    plane: Plane, shipway: Callable[..., tuple[int, str]]
) -> None:
    code, said = shipway("install")
    assert code == 1
    assert "Nobody answers there" in said
    with Receiver(plane.servers.controller_port, "another secret"):
        code, said = shipway("list")
    assert code == 1
    assert "another secret than the controller's" in said


def test_a_webhook_that_was_switched_off_is_told_and_switched_on_again(plane: Plane) -> None:
    client: Any = plane.servers.client
    with Receiver(plane.servers.controller_port, plane.secret):
        assert install_hook(plane.registry(), plane.hook_address()).arrives
        (hook,) = [one for one in client.list_webhooks(100) if one.name == HOOK_NAME]
        client.update_webhook(hook.webhook_id, status="DISABLED")
        assert "switched off" in check_hook(plane.registry()).said
        assert install_hook(plane.registry(), plane.hook_address()).arrives


@pytest.mark.timeout(300)
def test_an_mlflow_as_it_comes_calls_neither_http_nor_private_addresses_and_loses_its_secrets(
    tmp_path: Path,
) -> None:
    """As it comes: without the three variables that the local stack sets."""
    port, key = free_port(0, set()), Fernet.generate_key().decode()
    plain = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "false"}
    with start_mlflow(tmp_path, environment=plain, controller_port=port) as url:
        registry = MlflowRegistry(connect_mlflow(RegistrySettings(tracking_uri=url)))
        for scheme, word in (("http", "scheme"), ("https", "non-public")):
            address = HookAddress(controller_url=f"{scheme}://127.0.0.1:{port}", secret="s3cret")
            refused = install_hook(registry, address)
            assert not refused.arrives
            assert word in refused.said
            assert "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true" in refused.said
            assert "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https" in refused.said
        public = HookAddress(controller_url="https://192.88.99.7", secret="s3cret")
        registry.ensure_webhook(
            name=HOOK_NAME, url=public.url, secret="s3cret", events=("model_version.created",)
        )
    other = {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": key}
    with start_mlflow(tmp_path, environment=other, controller_port=port) as url:
        registry = MlflowRegistry(connect_mlflow(RegistrySettings(tracking_uri=url)))
        lost = check_hook(registry)
        assert not lost.arrives
        assert "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY" in lost.said
