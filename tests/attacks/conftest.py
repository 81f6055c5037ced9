"""The guard of `tests/guard`, for those who attack it."""

from tests.guard.conftest import keys_file, lines, start_world, world
from tests.guard.test_process import start

__all__ = ["keys_file", "lines", "start", "start_world", "world"]
