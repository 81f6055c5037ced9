"""The name of every event that the guard logs. Their fields are bound where they are logged; no prompt, answer or key is one."""

from enum import StrEnum


class GuardEvent(StrEnum):
    """One value for each thing that may be said to have happened."""

    STARTED = "guard.started"
    """It listens from now on."""
    STOPPED = "guard.stopped"
    """It was told to end, and what was under way is over."""
    REQUEST_SERVED = "request.served"
    """One request, however it ended: the line with all that is known of it."""
    FAILED = "guard.failed"
    """A bug of the guard's, with its traceback; counted against no version."""
    KEYS_LOADED = "guard.keys_loaded"
    """The key file was read, at the start or because it had changed."""
    KEYS_UNREADABLE = "guard.keys_unreadable"
    """It cannot be read, and nobody is let in."""
    LIMIT_STORE_LOST = "guard.limit_store_lost"
    """Redis did not answer: rates are counted by each process, and whoever has a budget is refused."""
    CACHE_STORE_LOST = "guard.cache_store_lost"
    """Redis did not answer: no answer is given again."""
    ANSWERS_LOST = "guard.answers_lost"
    """Redis did not answer: feedback cannot be taken."""
    USERS_LOST = "guard.users_lost"
    """Redis did not answer: sticky users are not compared."""
    SPOOL_FAILED = "guard.spool_failed"
    """The spool folder takes no records. Said when that begins."""
    ASIDE_FAILED = "guard.aside_failed"
    """A bug in what is done aside from requests, with its traceback; it touches none."""
