"""What requests are refused or rewritten, and what answers: the endpoint file's `guard.input` and `guard.output`.

A rule finds something and says what is done about it. Rules work in their order: where two find something at one place,
the first counts. What a kind of rule finds, and what it cannot, is said in docs/guard-filters.md.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from deploy_targets.declared import Count, Declared
from deploy_targets.pattern_reach import PatternInvalid, measure_pattern

RuleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
_ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool", "function")
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class Action(StrEnum):
    """What is done with a finding."""

    ALLOW = "allow"
    """It stays as it is, and no later rule looks at it: an exception to those."""
    REDACT = "redact"
    """It is replaced."""
    REFUSE = "refuse"
    """Neither it nor what follows goes on."""


class Secret(StrEnum):
    """Kinds of secrets."""

    PRIVATE_KEY = "private_key"
    AWS_KEY = "aws_key"
    GITHUB_TOKEN = "github_token"  # noqa: S105 - a name
    OPENAI_KEY = "openai_key"
    SLACK_TOKEN = "slack_token"  # noqa: S105 - a name
    GOOGLE_KEY = "google_key"
    HUGGING_FACE_TOKEN = "hugging_face_token"  # noqa: S105 - a name
    JWT = "jwt"
    HIGH_ENTROPY = "high_entropy"


class PersonalData(StrEnum):
    """Kinds of personal data that have a form."""

    EMAIL = "email"
    PHONE = "phone"
    IBAN = "iban"
    CARD = "card"
    US_SSN = "us_ssn"
    IP_ADDRESS = "ip_address"


class _Rule(Declared):
    name: RuleName
    """What refusals, metrics and logs call it."""
    action: Action
    """What is done with a finding: `allow` leaves it and hides it from later rules, `redact` replaces it, `refuse` ends
    the request, or the answer where it stands."""


class RegexRule(_Rule):
    """Finds what a pattern matches."""

    kind: Literal["regex"]
    pattern: Annotated[str, Field(min_length=1, max_length=2000)]
    """In the syntax of Python's `re`; its repeats bounded, so that a stream need not wait for the whole answer."""
    ignore_case: bool = False
    """Whether A matches a."""
    replacement: Annotated[str, Field(max_length=200)] | None = None
    """What a redacted finding becomes; the rule's name in brackets by default."""

    @model_validator(mode="after")
    def _can_be_matched(self) -> Self:
        try:
            measure_pattern(self.pattern)
        except PatternInvalid as error:
            message = f"the pattern of rule {self.name!r} cannot be used: {error}"
            raise ValueError(message) from error
        return self


class SecretsRule(_Rule):
    """Finds keys and tokens by their form."""

    kind: Literal["secrets"]
    types: Annotated[tuple[Secret, ...], Field(min_length=1)] = tuple(
        one for one in Secret if one is not Secret.HIGH_ENTROPY
    )
    """Which; all but `high_entropy` by default, which finds other random names as well."""


class PersonalDataRule(_Rule):
    """Finds personal data that have a form, by checksum where there is one."""

    kind: Literal["personal_data"]
    types: Annotated[tuple[PersonalData, ...], Field(min_length=1)] = tuple(PersonalData)
    """Which."""


class WordsRule(_Rule):
    """Finds whole words and phrases, in any case, with or without accents and hidden characters."""

    kind: Literal["words"]
    words: Annotated[tuple[Word, ...], Field(min_length=1, max_length=2000)]
    """A space in one stands for up to four."""


class HiddenTextRule(_Rule):
    """Finds characters that turn a text's direction, and letters that people do not see and models read."""

    kind: Literal["hidden_text"]


FilterRule = Annotated[
    RegexRule | SecretsRule | PersonalDataRule | WordsRule | HiddenTextRule,
    Field(discriminator="kind"),
]


def _have_names_of_their_own(rules: tuple[FilterRule, ...]) -> tuple[FilterRule, ...]:
    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"two rules are called {twice[0]!r}; give each a name of its own"
        raise ValueError(message)
    return rules


_Rules = Annotated[
    tuple[FilterRule, ...], Field(max_length=100), AfterValidator(_have_names_of_their_own)
]


class RequestLimits(Declared):
    """How large a request may be, and what it may ask for."""

    max_messages: Count | None = None
    """In one chat."""
    max_prompt_chars: Count | None = None
    """Of all messages together."""
    max_answer_tokens: Count | None = None
    """The highest max_tokens; a request without any is passed on as it is."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = _ROLES
    """Which may speak."""
    is_order_checked: bool = False
    """Whether system messages must come first, then user and assistant by turns, the user first and last."""


class ContextLimit(Declared):
    """The model's context, counted by its own tokenizer before a request is sent on."""

    tokens: Count
    """Of prompt and answer together: the engine's max_context_tokens."""
    tokenizer: Annotated[str, Field(min_length=1)]
    """The model's tokenizer.json, a file that the guard can read."""


class InputPolicy(Declared):
    """Which requests go on."""

    limits: RequestLimits | None = None
    """Ranges, roles and sizes; without it only what no engine could answer is refused."""
    context: ContextLimit | None = None
    """Refuses a prompt that cannot fit; without it the engine alone counts."""
    rules: _Rules = ()
    """What is looked for in messages."""


class OutputPolicy(Declared):
    """Which answers go out."""

    rules: _Rules = ()
    """What is looked for in answers, streams included."""
    json_answers: Literal["off", "mark", "refuse"] = "off"
    """What becomes of an answer that is not the JSON its request's response_format asked for: `mark` says so in the
    answer and counts it, `refuse` makes it an error."""
