"""A policy's rules, ready to be used. Pure."""

from collections.abc import Iterable, Iterator
from typing import assert_never

from deploy_targets.filter_policy import (
    FilterRule,
    HiddenTextRule,
    PersonalDataRule,
    RegexRule,
    SecretsRule,
    WordsRule,
)
from deploy_targets.guard.filtering import Recogniser, Rule
from deploy_targets.guard.patterns import compile_bounded
from deploy_targets.guard.recognisers import HIDDEN_TEXT, PERSONAL_DATA, SECRETS, words_recogniser


def rules_of(declared: Iterable[FilterRule]) -> tuple[Rule, ...]:
    """The rules of a policy, in its order. A rule of several types is one for each of them, of one name.

    Raises:
        PatternInvalid: a pattern or word that cannot be used.
    """
    return tuple(
        Rule(name=rule.name, action=rule.action, recogniser=recogniser, replacement=replacement)
        for rule in declared
        for recogniser, replacement in _recognisers(rule)
    )


def _recognisers(rule: FilterRule) -> Iterator[tuple[Recogniser, str]]:
    """Each with what stands in place of its findings."""
    match rule:
        case RegexRule():
            pattern = compile_bounded(rule.pattern, ignore_case=rule.ignore_case)
            given = rule.replacement
            yield Recogniser(pattern=pattern), f"[{rule.name}]" if given is None else given
        case SecretsRule():
            for kind in rule.types:
                yield SECRETS[kind], f"[{kind}]"
        case PersonalDataRule():
            for kind in rule.types:
                yield PERSONAL_DATA[kind], f"[{kind}]"
        case WordsRule():
            yield words_recogniser(rule.words), f"[{rule.name}]"
        case HiddenTextRule():
            yield HIDDEN_TEXT, ""
        case _:
            assert_never(rule)
