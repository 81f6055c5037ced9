"""When is what MLflow said no answer at all? For its two adapters, `mlflow_registry` and `tracking`.

A proxy's page, an answer about something else or an empty one come with status 200, too, and MLflow's client reads them as
a model without aliases, or stumbles over them with whatever its parsing raises. Nothing may be concluded from them.
"""

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from google.protobuf.json_format import ParseError
from mlflow.exceptions import MlflowException


class Nonsense(Exception):
    """MLflow answered, and this cannot be the answer to what it was asked."""


NO_ANSWER: tuple[type[Exception], ...] = (
    MlflowException,
    Nonsense,
    # Its client's own parsing, on JSON of another shape.
    ParseError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    # Artifacts: through MLflow (requests' errors are OSErrors), in S3, or in a folder that is on another machine.
    OSError,
    Boto3Error,
    BotoCoreError,
    ClientError,
)
"""What a call of MLflow's client may raise. It stands around nothing but such calls."""


def check_answer(what: str, *, asked: object, got: object) -> None:
    """Raises Nonsense when MLflow tells of something else than it was asked for."""
    if got != asked:
        message = f"its answer has {what} {got!r} instead of {asked!r}"
        raise Nonsense(message)


def present(what: str, value: object) -> str:
    """The value, which no answer of MLflow's lacks.

    Raises:
        Nonsense: this one does.
    """
    if not value:
        message = f"its answer has no {what}"
        raise Nonsense(message)
    return str(value)
