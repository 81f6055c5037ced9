"""The file by which any client finds an API server."""

from collections.abc import Mapping
from typing import Any


def kubeconfig_of(addresses: Mapping[str, str], *, token: str, current: str = "") -> dict[str, Any]:
    """A context for each address, by its name, all for the account of that token; `current` is one of them, or none."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current,
        "clusters": [{"name": one, "cluster": {"server": url}} for one, url in addresses.items()],
        "users": [{"name": "account", "user": {"token": token}}],
        "contexts": [
            {"name": one, "context": {"cluster": one, "user": "account"}} for one in addresses
        ],
    }
