"""The engine's tiny model, for the application around it."""

from tests.engine.conftest import checkpoint

__all__ = ["checkpoint"]
