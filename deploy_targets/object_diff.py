"""Whether, and how, an apply changes an object: the live one against what the API server says it would become. Pure.

Compared after the server's own defaults on both sides, so only what somebody meant to change is a difference.
"""

import difflib
from dataclasses import dataclass
from typing import Any

from deploy_targets.manifest import Object, part, yaml_text

_SERVERS_OWN = {
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One object, before and after an apply; before is None where it would be made."""

    before: Object | None
    after: Object

    @property
    def is_none(self) -> bool:
        """Whether the apply would leave everything as it is."""
        return self.before is not None and _said(self.before) == _said(self.after)

    @property
    def name(self) -> str:
        """`<kind> <namespace>/<name>`."""
        metadata = self.after["metadata"]
        return f"{self.after['kind']} {metadata.get('namespace')}/{metadata['name']}"

    def text(self) -> str:
        """The change as a unified diff of YAML; one line where there is none."""
        if self.is_none:
            return f"= {self.name} stays as it is\n"
        before = "" if self.before is None else yaml_text(_said(self.before))
        lines = difflib.unified_diff(
            before.splitlines(keepends=True),
            yaml_text(_said(self.after)).splitlines(keepends=True),
            fromfile="nothing" if self.before is None else f"{self.name} (live)",
            tofile=f"{self.name} (applied)",
        )
        return "".join(lines)


def _said(found: Object) -> dict[str, Any]:
    """What people and operators wrote: neither status nor the server's bookkeeping."""
    kept = {key: one for key, one in found.items() if key not in {"metadata", "status"}}
    metadata = part(found, "metadata")
    said = {key: one for key, one in sorted(metadata.items()) if key not in _SERVERS_OWN}
    return {**kept, "metadata": said}
