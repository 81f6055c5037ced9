"""Files that people write, in YAML or as a word on the command line: what is read can be written and is read again."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel

from deploy_targets.declared import AS_DUMPED
from deploy_targets.endpoint import EndpointFile, parse_endpoints
from deploy_targets.rollout.judge_series import judge_series
from deploy_targets.rollout.observations import (
    PolicyFile,
    Series,
    parse_observations,
    parse_policy,
)
from deploy_targets.rollout.scenario import parse_scenario
from pipelines.download.sources import HubSource, S3Source, parse_source
from pipelines.quantize.recipes import parse_recipe
from pipelines.retrain.recipe import parse_adapter
from pipelines.schedule.declared import Schedule, check_entry_points, parse_schedules
from registry.errors import BadInput, EndpointFileInvalid, IntegrityError, SourceInvalid
from registry.release import parse_digest, split_source
from tests.fuzz.claims import check_refusal, claim, text_of

_WHERE = "the file"
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


def _read(
    parse: Callable[[str], T], data: bytes, *refused: type[Exception], named: str = _WHERE
) -> T | None:
    """What `parse` makes of the text; None where it is refused as it should be."""
    try:
        return parse(text_of(data))
    except refused as error:
        check_refusal(error, data, named=named)
        return None


def endpoints(data: bytes) -> bool:
    """The endpoint file; each endpoint goes into saved states as it is dumped here."""
    read = _read(lambda text: parse_endpoints(text, origin=_WHERE), data, EndpointFileInvalid)
    if read is not None:
        again = EndpointFile.model_validate_json(
            read.model_dump_json(by_alias=True), context=AS_DUMPED
        )
        claim(again == read, "another file", again, read)
    return read is not None


def _same_when_written(parse: Callable[[str], M], data: bytes) -> M | None:
    read = _read(parse, data, BadInput)
    if read is not None:
        again = parse(yaml.safe_dump(read.model_dump(mode="json")))
        claim(again == read, "another document", again, read)
        str(read).encode()
    return read


def recipe(data: bytes) -> bool:
    """A quantization recipe."""
    return _same_when_written(lambda text: parse_recipe(text, where=_WHERE), data) is not None


def adapter(data: bytes) -> bool:
    """An adapter's recipe."""
    read = _same_when_written(lambda text: parse_adapter(text, where=_WHERE), data)
    claim(read is None or read.steps(1000) >= 1, "no step", read)
    return read is not None


def policy(data: bytes) -> bool:
    """The policy of `shipway judge`."""
    return _same_when_written(lambda text: parse_policy(text, origin=_WHERE), data) is not None


def scenario(data: bytes) -> bool:
    """The scenario of `shipway simulate`, whose ramp has a step for each interval."""
    read = _same_when_written(lambda text: parse_scenario(text, origin=_WHERE), data)
    if read is not None:
        length_s = read.duration_s or read.policy.time_limit_s
        claim(len(read.steps) == math.ceil(length_s / read.interval_s), "steps", read)
    return read is not None


def schedules(data: bytes) -> bool:
    """The schedule file, and an MLproject behind the first NUL where there is one."""
    written, separator, project = data.partition(b"\0")
    read = _read(lambda text: parse_schedules(text, where=_WHERE), written, BadInput)
    if read is None:
        return False
    claim(parse_schedules(_as_schedules(read), where=_WHERE) == read, "other schedules", read)
    for one in read:
        claim(one.cron.isascii(), "Kubernetes knows ASCII alone", one.cron)
        claim(one.words()[:2] == ("-e", one.entry_point), one)
    if separator:
        _read(
            lambda text: check_entry_points(read, text, where=_WHERE), project, BadInput, named=""
        )
    return True


def _as_schedules(read: tuple[Schedule, ...]) -> str:
    return yaml.safe_dump({"schedules": [one.model_dump(mode="json") for one in read]})


def source(data: bytes) -> bool:
    """A model source, as `-P source=` gives it."""
    text = text_of(data)
    read = _read(parse_source, data, SourceInvalid, named="")
    match read:
        case HubSource():
            file = "" if read.file is None else f"/{read.file}"
            claim(parse_source(f"hub://{read.repository}@{read.revision}{file}") == read, read)
        case S3Source():
            bucket, prefix = split_source(read.address)
            claim(bucket and prefix and "/" not in bucket, read)
        case _:
            claim(read is None or text, "something out of nothing", read)
    return read is not None


def digest(data: bytes) -> bool:
    """A digest, which is its own spelling."""
    read = _read(parse_digest, data, IntegrityError, named="")
    claim(read is None or (read == text_of(data) and len(read) == 71), read)
    return read is not None


RULES: Any = parse_policy(
    "champion: '6'\nchallenger: '7'\nmetrics: {errors: {tolerance: 0.02}, latency: {slo_s: 1.0, tolerance: 0.05},\n"
    "  quality: {tolerance: 0.1}, cost: {tolerance: 0.1, max_per_request_micros: 1000}}\npromote: {by: claim}\n",
    origin=_WHERE,
)


def observations(data: bytes) -> bool:
    """The lines of `shipway judge`, up to a verdict for each series."""
    rules: PolicyFile = RULES
    read = _read(
        lambda text: parse_observations(text.splitlines(), rules, origin=_WHERE), data, BadInput
    )
    if read is None:
        return False
    for one in read:
        _check_series(one)
    claim(len(judge_series(read, rules)) == len(read), "a verdict for each")
    return True


def _check_series(one: Series) -> None:
    claim((np.diff(one.intervals) > 0).all(), "intervals in their order", one)
    claim((one.requests >= 0).all() and np.isfinite(one.requests).all(), "requests", one)
    claim((np.diff(one.elapsed_s) >= 0).all(), "time goes on", one)
    claim(np.isfinite(one.elapsed_s).all(), "time has an end", one)
    for name, table in one.tables.items():
        claim(np.isfinite(table).all() and (table >= 0).all(), name, table)
        claim((table[:, [1, 3]] <= table[:, [0, 2]]).all(), "more bad than all", name, table)
