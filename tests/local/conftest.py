"""The same as in tests/flows."""

from tests.flows.conftest import own_ports

__all__ = ["own_ports"]
