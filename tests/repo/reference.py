"""Writes what is generated from the code: docs/reference.md, docs/endpoints.schema.json, monitoring/generated/.

`python -m tests.repo.reference` writes, `--check` only compares. What has no explanation in the code is named by
`unexplained`, and a test refuses it. Nothing here starts a server or loads a model.
"""

import ast
import importlib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from deploy_targets import metrics
from deploy_targets.cli import app
from deploy_targets.endpoint import endpoint_schema
from deploy_targets.guard.errors import GuardError
from deploy_targets.guard.events import GuardEvent
from deploy_targets.manifest import Manifest, canonical_yaml
from deploy_targets.monitoring.dashboards import dashboard_json
from deploy_targets.monitoring.manifests import (
    controller_pod_monitor,
    pod_monitor,
    prometheus_rule,
)
from deploy_targets.monitoring.rules import rule_groups
from deploy_targets.rollout.observations import PolicyFile
from deploy_targets.rollout.scenario import Scenario
from registry.errors import BadInput, ShipwayError
from registry.events import Event

ROOT = Path(__file__).parents[2]
PACKAGES = ("registry", "pipelines", "deploy_targets")
INTRODUCTION = """\
# Reference

Written from the code by `make docs`; a test fails when the two differ. Edit the code, not this page.

Exit codes of every command: 0 done, 1 refused or failed, 2 wrong usage.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: what it is called, what it means, and between the two what the table's section says."""

    name: str
    default: str = ""
    meaning: str

    def line(self, *, has_default: bool) -> str:
        """The line in Markdown."""
        cells = (f"`{self.name}`", *([self.default] if has_default else []), self.meaning)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One command, one settings class, one object of a file that users write, or one kind of what is said to them."""

    title: str
    text: str
    rows: tuple[Row, ...]
    example: str = ""
    column: str = "default"
    """What stands between a row's name and its meaning; nothing does where it is empty."""

    def markdown(self) -> str:
        """The section with its table."""
        parts = [f"### {self.title}", self.text]
        if self.rows:
            columns = ("name", *([self.column] if self.column else []), "meaning")
            table = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
            parts.append(
                table + "\n".join(row.line(has_default=bool(self.column)) for row in self.rows)
            )
        if self.example:
            parts.append(f"```sh\n{self.example}\n```")
        return "\n\n".join(part for part in parts if part)


def commands() -> tuple[Section, ...]:
    """Every command of the `shipway` CLI, those in groups included."""
    return tuple(_commands(typer.main.get_command(app), "shipway"))


def _commands(command: Any, path: str) -> Iterator[Section]:  # typer's parser is private
    children: Mapping[str, Any] = getattr(command, "commands", {})
    if not children:
        arguments = [p for p in command.params if not p.opts[0].startswith("-")]
        options = [p for p in command.params if p.opts[0].startswith("-")]
        yield Section(
            title=" ".join([f"`{path}", *(p.metavar or p.name.upper() for p in arguments)]) + "`",
            text=command.help or "",
            rows=tuple(
                Row(
                    name=", ".join(p.opts) if p in options else p.metavar or p.name.upper(),
                    default="required" if p.required else _default(p.default),
                    meaning=p.help or "",
                )
                for p in (*arguments, *options)
            ),
            example=(command.epilog or "").removeprefix("Example: "),
        )
    for name, child in children.items():
        yield from _commands(child, f"{path} {name}")


def settings() -> tuple[Section, ...]:
    """Every settings class of the three packages, with the environment variables it reads."""
    sections: list[Section] = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            module = ast.parse(file.read_text())
            for node in module.body:
                if isinstance(node, ast.ClassDef) and "BaseSettings" in map(
                    ast.unparse, node.bases
                ):
                    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                    cls = getattr(importlib.import_module(name), node.name)
                    sections.append(_settings(cls, node, ast.get_docstring(module) or ""))
    return tuple(sections)


def _settings(cls: type[BaseSettings], node: ast.ClassDef, door_sign: str) -> Section:
    meanings = dict(_attribute_docstrings(node))
    return Section(
        title=f"`{cls.__module__}.{cls.__name__}`",
        text=door_sign.split("\n\n", maxsplit=1)[0].replace("\n", " "),
        rows=tuple(
            Row(
                name=_variable(cls, name, field),
                default="required" if field.is_required() else _default(field.default),
                meaning=meanings.get(name, field.description or ""),
            )
            for name, field in cls.model_fields.items()
        ),
    )


def _attribute_docstrings(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, after in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign | ast.Assign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            target = field.target if isinstance(field, ast.AnnAssign) else field.targets[0]
            yield ast.unparse(target), " ".join(str(after.value.value).split())


def _variable(cls: type[BaseSettings], name: str, field: FieldInfo) -> str:
    alias: Any = field.validation_alias
    if alias is None:
        return (cls.model_config.get("env_prefix", "") + name).upper()
    return ", ".join(getattr(alias, "choices", [alias]))


def declared_files() -> dict[str, tuple[Section, ...]]:
    """Each file that users write, by its heading: the file itself first, then each object that no earlier file has."""
    explained: set[str] = set()
    files: dict[str, tuple[Section, ...]] = {}
    for heading, schema in _schemas().items():
        objects = {
            f"`{name}`": spec for name, spec in schema["$defs"].items() if name not in explained
        }
        explained |= schema["$defs"].keys()
        own = {**schema, "description": ""}
        files[heading] = tuple(
            _object(title, spec)
            for title, spec in {"the file": own, **objects}.items()
            if "properties" in spec
        )
    return files


def _schemas() -> dict[str, Mapping[str, Any]]:
    return {
        "The endpoint file": endpoint_schema(),
        "The policy file of `shipway judge`": PolicyFile.model_json_schema(),
        "The scenario file of `shipway simulate`": Scenario.model_json_schema(),
    }


def series() -> tuple[Section, ...]:
    """Every Prometheus series, by who tells it."""
    all_series = [one for one in vars(metrics).values() if isinstance(one, metrics.Series)]
    return tuple(
        Section(
            title=f"Of the {who}",
            text="",
            rows=tuple(
                Row(name=one.name, default=", ".join(one.labels) or "none", meaning=one.help)
                for one in all_series
                if one.name.startswith("shipway_") is (who == "controller")
            ),
            column="labels",
        )
        for who in ("guard", "controller")
    )


def events() -> tuple[Section, ...]:
    """Every event that is logged, by who logs it."""
    return tuple(
        Section(title=title, text="", rows=_events(kind), column="")
        for title, kind in (
            ("Of the controller, the engines and MLflow's Shipway app", Event),
            ("Of the guard's process", GuardEvent),
        )
    )


def _events(kind: type[Event] | type[GuardEvent]) -> tuple[Row, ...]:
    [node] = ast.parse(inspect.getsource(kind)).body
    meanings = dict(_attribute_docstrings(node)) if isinstance(node, ast.ClassDef) else {}
    return tuple(Row(name=one.value, meaning=meanings.get(one.name, "")) for one in kind)


def errors() -> tuple[Section, ...]:
    """Every error that ends a command, and every one that the guard answers with."""
    ended = [one for one in _below(ShipwayError) if one.__module__ == "registry.errors"]
    answered = [one for one in _below(GuardError) if "code" in vars(one)]
    return (
        Section(
            title="Of commands",
            text="Each has a message that says what happened, then what to do.",
            rows=tuple(
                Row(
                    name=one.__name__,
                    default="2" if issubclass(one, BadInput) else "1",
                    meaning=_first_line(one),
                )
                for one in ended
            ),
            column="exit code",
        ),
        Section(
            title="Of the guard's answers",
            text="In OpenAI's error envelope, where `code` is the name below.",
            rows=tuple(
                Row(name=one.code, default=str(one.status.value), meaning=_first_line(one))
                for one in answered
            ),
            column="status",
        ),
    )


def _below(error: type[Any]) -> Iterator[type[Any]]:
    for one in error.__subclasses__():
        yield one
        yield from _below(one)


def _first_line(documented: type[Any]) -> str:
    return (documented.__doc__ or "").split("\n\n", maxsplit=1)[0].replace("\n", " ")


def _object(title: str, spec: Mapping[str, Any]) -> Section:
    return Section(
        title=title,
        text=spec.get("description", "").replace("\n", " "),
        rows=tuple(
            Row(
                name=field,
                default="required" if field in spec.get("required", ()) else _short(value),
                meaning=_meaning(value),
            )
            for field, value in spec["properties"].items()
        ),
    )


def _meaning(value: Mapping[str, Any]) -> str:
    """The kind and the description; empty for a plain value that nobody described."""
    kind = _kind(value)
    described = value if "description" in value or "$ref" not in value else _definition(value)
    if "](#" in kind and described is not value:
        return kind
    description = described.get("description", "").replace("\n", " ")
    if description:
        return f"{kind}. {description}"
    return kind if "](#" in kind or "const" in value else ""


def _definition(value: Mapping[str, Any]) -> Mapping[str, Any]:
    name = value["$ref"].rsplit("/", 1)[-1]
    return next(schema["$defs"][name] for schema in _schemas().values() if name in schema["$defs"])


def _kind(value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        target = _definition(value)
        title = target["title"]
        return _kind(target) if "enum" in target else f"[{title}](#{title.lower()})"
    if "const" in value:
        return f"always `{value['const']}`"
    if {"anyOf", "oneOf", "enum"} & value.keys():
        kinds = [_kind(one) for one in (*value.get("anyOf", ()), *value.get("oneOf", ()))]
        return " or ".join(kinds or [f"`{one}`" for one in value["enum"]])
    if value["type"] == "array":
        return f"a list of {_kind(value['items'])}"
    bounds = (
        ("minimum", "from {}"),
        ("exclusiveMinimum", "above {}"),
        ("maximum", "to {}"),
        ("exclusiveMaximum", "below {}"),
    )
    limits = " ".join(text.format(value[key]) for key, text in bounds if key in value)
    return f"{value['type']} {limits}".strip()


def _short(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    if isinstance(default, dict | list) and "$ref" in json.dumps(dict(value)):
        return "see there"
    return _default(default)


def _default(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple | dict):
        return f"`{json.dumps(value)}`"
    return f"`{value}`"


def unexplained() -> tuple[str, ...]:
    """What a reader of the reference would look at in vain: commands without example, rows without meaning."""
    faults = [f"{one.title} has no help" for one in commands() if not one.text]
    faults += [f"{one.title} has no example" for one in commands() if not one.example]
    faults += [
        f"{section.title}: {row.name} is not explained"
        for section in (
            *(*commands(), *settings(), *chain(*declared_files().values())),
            *(*series(), *events(), *errors()),
        )
        for row in section.rows
        if not row.meaning
    ]
    return tuple(faults)


def documents() -> dict[Path, str]:
    """The generated files and what belongs in them."""
    parts = (
        ("## Commands", commands()),
        ("## Environment variables", settings()),
        *((f"## {heading}", sections) for heading, sections in declared_files().items()),
        ("## Metrics", series()),
        ("## Events", events()),
        ("## Errors", errors()),
    )
    page = "\n\n".join(
        [INTRODUCTION.strip()]
        + ["\n\n".join([title, *(one.markdown() for one in sections)]) for title, sections in parts]
    )
    monitoring = ROOT / "deploy_targets" / "monitoring" / "generated"
    rules = Manifest(name="rules", body=rule_groups())
    return {
        ROOT / "docs" / "reference.md": page + "\n",
        ROOT / "docs" / "endpoints.schema.json": json.dumps(endpoint_schema(), indent=1) + "\n",
        monitoring / "rules.yaml": canonical_yaml([rules]),
        monitoring / "prometheusrule.yaml": canonical_yaml([prometheus_rule()]),
        monitoring / "podmonitor.yaml": canonical_yaml([pod_monitor(), controller_pod_monitor()]),
        monitoring / "dashboard.json": dashboard_json(),
    }


def stale() -> tuple[str, ...]:
    """The generated files that differ from the code, relative to the project's root."""
    return tuple(
        str(path.relative_to(ROOT))
        for path, text in documents().items()
        if not path.is_file() or path.read_text() != text
    )


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` only say which are stale. Returns the exit code."""
    if arguments == ["--check"]:
        for path in stale():
            sys.stderr.write(f"{path} differs from the code. Run `make docs` and commit it.\n")
        return 1 if stale() else 0
    for path, text in documents().items():
        path.write_text(text)
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
