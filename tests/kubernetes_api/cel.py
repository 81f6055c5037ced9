"""The rules in CEL that our objects meet, each written by hand. Pure; there is no CEL engine here.

A rule is known by the digest of its text, so that one that changes in a newer CRD is unknown again. An object that meets
an unknown rule is refused loudly: nothing is accepted because nobody looked. Rules of filters that we never write
(mirrors, redirects, rewrites, CORS) are left out on purpose.
"""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

Rule = Callable[[Any, Any], bool]
"""Takes the value, defaulted, and what stood there before (None on creation); is True when the rule holds."""

_PATH = re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+")
_LITERAL_PATHS = ("Exact", "PathPrefix")
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|ns|h|m|s)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_MOST_MATCHES = 128


def digest(rule: str) -> str:
    """By which a rule is known."""
    return sha256(rule.encode()).hexdigest()[:10]


def holds(rule: str, value: Any, old: Any) -> bool:
    """Whether the rule holds. A rule that compares with what was there is not asked on creation.

    Raises:
        NotImplementedError: it is none of ours.
    """
    known = RULES.get(digest(rule))
    if known is None:
        raise NotImplementedError(f"the stand-in does not know the rule {digest(rule)}: {rule}")
    return ("oldSelf" in rule and old is None) or known(value, old)


def _literal(check: Callable[[str], bool]) -> Rule:
    """Of a path that is not a regular expression."""
    return lambda path, _: path["type"] not in _LITERAL_PATHS or check(path["value"])


def _lacks(part: str) -> Rule:
    return _literal(lambda text: part not in text)


def _only_with(field: str, kind: str) -> Rule:
    return lambda one, _: field not in one or one["type"] == kind


def _needed_by(field: str, kind: str) -> Rule:
    return lambda one, _: field in one or one["type"] != kind


def _at_most_one(kind: str) -> Rule:
    return lambda filters, _: sum(one["type"] == kind for one in filters) <= 1


def _no_rewritten_prefix(field: str) -> Rule:
    """We never rewrite a path; a rule that does is more than this knows."""

    def check(rule: Mapping[str, Any], _: Any) -> bool:
        backends = [
            one for backend in rule.get("backendRefs", ()) for one in backend.get("filters", ())
        ]
        if any("path" in one.get(field, {}) for one in (*rule.get("filters", ()), *backends)):
            raise NotImplementedError(f"the stand-in does not know {field}.path")
        return True

    return check


def _parent(reference: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        reference.get("group"),
        reference.get("kind"),
        reference["name"],
        reference.get("namespace") or None,
    )


def _sections_named_alike(parents: Any, _: Any) -> bool:
    return all(
        bool(one.get("sectionName")) == bool(other.get("sectionName"))
        for one in parents
        for other in parents
        if _parent(one) == _parent(other)
    )


def _sections_differ(parents: Any, _: Any) -> bool:
    whole = [(*_parent(one), one.get("sectionName") or None) for one in parents]
    return len(set(whole)) == len(whole)


def _timeouts_in_order(timeouts: Mapping[str, str], _: Any) -> bool:
    whole, backend = (_seconds(timeouts.get(key)) for key in ("request", "backendRequest"))
    return not whole or backend is None or backend <= whole


def _seconds(duration: str | None) -> float | None:
    if duration is None:
        return None
    return sum(float(count) * _UNIT_S[unit] for count, unit in _DURATION.findall(duration))


def _each(check: Callable[[Mapping[str, Any]], bool]) -> Rule:
    return lambda listeners, _: all(check(one) for one in listeners)


def _listener_place(one: Mapping[str, Any]) -> tuple[Any, ...]:
    return one["port"], one["protocol"], one.get("hostname")


def _differ(identity: Callable[[Mapping[str, Any]], Any]) -> Rule:
    return lambda listeners, _: len({identity(one) for one in listeners}) == len(listeners)


_FILTERS = {
    # a filter: (its member only with its type, needed by its type)
    ("cors", "CORS"): ("1b5e24ab18", "53315200e5"),
    ("requestHeaderModifier", "RequestHeaderModifier"): ("7b8cf86874", "eb3032de76"),
    ("responseHeaderModifier", "ResponseHeaderModifier"): ("c0838ca9ab", "a900d76372"),
    ("requestMirror", "RequestMirror"): ("c2c4ceb30c", "479cd4bff5"),
    ("requestRedirect", "RequestRedirect"): ("bec67f21a5", "96f72312eb"),
    ("urlRewrite", "URLRewrite"): ("bc36c2fa84", "769cafeb49"),
    ("extensionRef", "ExtensionRef"): ("28f68457ca", "32fcae1cb6"),
}

RULES: Mapping[str, Rule] = {
    # HTTPRoute spec.parentRefs
    "c931cd547c": _sections_named_alike,
    "e906342c6f": _sections_differ,
    # HTTPRoute spec.rules and spec.rules[]
    "dfef9215af": lambda rules, _: (
        sum(len(one.get("matches", ())) for one in rules) <= _MOST_MATCHES
    ),
    "80d5779a11": lambda rule, _: (
        not rule.get("backendRefs")
        or not any("requestRedirect" in one for one in rule.get("filters", ()))
    ),
    "14c17d520e": _no_rewritten_prefix("requestRedirect"),
    "0fa5a331dd": _no_rewritten_prefix("urlRewrite"),
    "06e14dab4f": _no_rewritten_prefix("requestRedirect"),
    "bf9fd4333d": _no_rewritten_prefix("urlRewrite"),
    "3f02004fba": _timeouts_in_order,
    # HTTPRoute spec.rules[].backendRefs[]
    "089ed26a9f": lambda one, _: (
        not (one.get("group") == "" and one["kind"] == "Service") or "port" in one
    ),
    # HTTPRoute filters, of a rule and of a backend
    "24c3fdad46": lambda filters, _: (
        not {"RequestRedirect", "URLRewrite"} <= {one["type"] for one in filters}
    ),
    "ee6a308c41": _at_most_one("CORS"),
    "501e61ba52": _at_most_one("RequestHeaderModifier"),
    "226cc5e317": _at_most_one("ResponseHeaderModifier"),
    "c1f6cb742f": _at_most_one("RequestRedirect"),
    "61ed15b8b7": _at_most_one("URLRewrite"),
    **{only: _only_with(*one) for one, (only, _) in _FILTERS.items()},
    **{needed: _needed_by(*one) for one, (_, needed) in _FILTERS.items()},
    # HTTPRoute spec.rules[].matches[].path
    "d1b1dcc5e5": _literal(lambda text: text.startswith("/")),
    "2a730cbab5": _lacks("//"),
    "8c3f86ff50": _lacks("/./"),
    "ced0ffeab4": _lacks("/../"),
    "16add9e26d": _lacks("%2f"),
    "5f510e9128": _lacks("%2F"),
    "209894350d": _lacks("#"),
    "0c441c9dd7": _literal(lambda text: not text.endswith("/..")),
    "c36405e2d0": _literal(lambda text: not text.endswith("/.")),
    "1267f0554f": lambda path, _: path["type"] in (*_LITERAL_PATHS, "RegularExpression"),
    "67736b8f42": _literal(lambda text: _PATH.fullmatch(text) is not None),
    # Gateway spec.listeners
    "78a7723977": _each(
        lambda one: one["protocol"] not in ("HTTP", "TCP", "UDP") or "tls" not in one
    ),
    "aec2bd596a": _each(
        lambda one: (
            one["protocol"] != "HTTPS" or one.get("tls", {}).get("mode", "") in ("", "Terminate")
        )
    ),
    "79a4844635": _each(
        lambda one: one["protocol"] != "TLS" or bool(one.get("tls", {}).get("mode"))
    ),
    "08d23c40ec": _each(
        lambda one: one["protocol"] not in ("TCP", "UDP") or not one.get("hostname")
    ),
    "b3c66e248d": _differ(lambda one: one["name"]),
    "d31959b5ef": _differ(_listener_place),
    # RayService spec.managedBy, spec.rayClusterConfig.managedBy and .gcsFaultToleranceOptions.backend
    "f4f4adcfb2": lambda value, old: value == old,
    "4cdc559e61": lambda value, _: value in _MANAGERS,
}
"""By the digest of each rule's text."""
