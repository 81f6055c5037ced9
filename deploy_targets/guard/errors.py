"""Every way in which the guard turns a request away, and the HTTP status that each becomes.

GuardError
├── RequestRefused       the client can mend it; says nothing about a version
│   ├── RequestInvalid       400
│   ├── ModelRefused         400 the version itself has said so: an answer, and counted as one
│   ├── ContextTooLong       400
│   ├── ContentRefused       400
│   ├── AnswerUnfit          502 an answer all the same, and counted as one
│   ├── KeyRefused           401
│   ├── NotPermitted         403 a good key, but not for this
│   ├── NoSuchModel          404
│   ├── UnknownAnswer        404 feedback on an answer that this key has not had
│   ├── RequestTooSlow       408
│   ├── RequestTooLarge      413
│   ├── RateLimited          429
│   └── BudgetSpent          429 nothing is left of the day's money
├── KeysUnavailable      503 nobody can be let in (access control fails closed)
├── BudgetUnknown        503 nor who has a budget, while that cannot be checked
├── AnswersUnavailable   503 feedback cannot be taken
├── ShuttingDown         503
└── UpstreamFailed       counts as a failure of the version that is known, or of none
    ├── EngineFailed         500 Triton says so, in whichever of its ways
    ├── UpstreamUnreachable  502 no connection
    ├── UpstreamBroken       502 a connection, but no proper answer
    ├── VersionDied          503 whoever stands before the version says so
    └── UpstreamTimeout      504

KeyFileInvalid and PolicyUnusable are not for clients: they tell the operator what is wrong with a file.
"""

from http import HTTPStatus
from typing import Any, ClassVar


class GuardError(Exception):
    """Becomes a response in OpenAI's error envelope. The message is for the client, so it names nothing internal."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, rule: str = "") -> None:
        """`param` names the field of the request that is at fault, `rule` what an operator has called the rule."""
        super().__init__(message)
        self.param = param
        self.rule = rule

    def envelope(self) -> dict[str, Any]:
        """The body of the response."""
        return envelope(str(self), kind=self.kind, code=self.code, param=self.param)


class RequestRefused(GuardError):
    """The request cannot be passed on as it is."""

    kind = "invalid_request_error"


class RequestInvalid(RequestRefused):
    """The body is not a chat completion request."""

    status = HTTPStatus.BAD_REQUEST
    code = "invalid_request"


class ModelRefused(RequestRefused):
    """The version cannot answer this request, whoever asks: a prompt that is too long."""

    status = HTTPStatus.BAD_REQUEST
    code = "refused_by_model"


class ContextTooLong(RequestRefused):
    """The prompt cannot fit into the model's context."""

    status = HTTPStatus.BAD_REQUEST
    code = "context_length_exceeded"


class ContentRefused(RequestRefused):
    """A rule of the endpoint's policy refuses what the prompt holds."""

    status = HTTPStatus.BAD_REQUEST
    code = "content_filter"


class AnswerUnfit(RequestRefused):
    """The version has answered, but not with the JSON that was asked for."""

    status = HTTPStatus.BAD_GATEWAY
    kind = "server_error"
    code = "answer_unfit"


class KeyRefused(RequestRefused):
    """No key, or one that is not known."""

    status = HTTPStatus.UNAUTHORIZED
    code = "invalid_api_key"


class NotPermitted(RequestRefused):
    """The key is good, and not for this."""

    status = HTTPStatus.FORBIDDEN
    code = "not_permitted"


class NoSuchModel(RequestRefused):
    """Another model than the one that answers here."""

    status = HTTPStatus.NOT_FOUND
    code = "model_not_found"


class UnknownAnswer(RequestRefused):
    """Feedback on an answer that this key has not had, or not lately."""

    status = HTTPStatus.NOT_FOUND
    code = "unknown_answer"


class RequestTooSlow(RequestRefused):
    """The body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "request_timeout"


class RequestTooLarge(RequestRefused):
    """The body is larger than the guard reads."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "request_too_large"


class _LaterError(RequestRefused):
    """A request that may be sent again, and when."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, message: str, *, rule: str, retry_after_s: float) -> None:
        """`rule` is the limit's name."""
        super().__init__(message, rule=rule)
        self.retry_after_s = retry_after_s


class RateLimited(_LaterError):
    """A limit is reached."""

    kind = "rate_limit_error"
    code = "rate_limit_exceeded"


class BudgetSpent(_LaterError):
    """Nothing is left of the day's money, or not enough."""

    kind = code = "insufficient_quota"


class BudgetUnknown(GuardError):
    """A budget cannot be checked, so nothing is let through that would be charged to it."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "budget_unknown"


class AnswersUnavailable(GuardError):
    """Which answers were given lately cannot be known, so feedback on them cannot be taken."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "answers_unavailable"


class KeysUnavailable(GuardError):
    """Keys cannot be checked, so nobody is let in."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "keys_unavailable"


class ShuttingDown(GuardError):
    """The guard is told to stop, and the time to finish is over."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "shutting_down"


class UpstreamFailed(GuardError):
    """The split, or the version behind it, failed this request."""


class EngineFailed(UpstreamFailed):
    """The engine says that it failed, though its status did not."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "engine_failed"


class UpstreamUnreachable(UpstreamFailed):
    """No connection to the split."""

    status = HTTPStatus.BAD_GATEWAY
    code = "upstream_unreachable"


class UpstreamBroken(UpstreamFailed):
    """The connection was lost, or what came is no answer."""

    status = HTTPStatus.BAD_GATEWAY
    code = "upstream_broken"


class VersionDied(UpstreamFailed):
    """An error in words that are not the version's own: it is not there any more, or not yet."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "version_died"


class UpstreamTimeout(UpstreamFailed):
    """No whole answer in the guard's time."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "upstream_timeout"


class PolicyUnusable(Exception):
    """The policy is well formed, but cannot be acted upon here."""


class KeyFileInvalid(Exception):
    """The key file is missing, unreadable or not in its form."""


def _codes(error: type[GuardError]) -> set[str]:
    return {error.code}.union(*map(_codes, error.__subclasses__()))


REFUSALS = tuple(
    sorted(
        (
            _codes(RequestRefused)
            | {KeysUnavailable.code, BudgetUnknown.code, AnswersUnavailable.code}
        )
        - {GuardError.code}
    )
)
"""The codes of all refusals, which are the rules that nobody has to name."""


def envelope(
    message: str, *, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object (API reference, "Error codes")."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
