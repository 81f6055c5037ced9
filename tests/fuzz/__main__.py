"""The long run: `python -m tests.fuzz [TARGET ...] [--runs 100000]`, guided by the coverage of our own packages.

Each target has a process of its own, one after the other. What a run finds is put into the corpus under the name of its
error, so that `make test` fails by it until it is mended; a finding does not end the run. libFuzzer, in atheris, does the work.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.fuzz.claims import MOST_BYTES
from tests.fuzz.targets import CORPUS, TARGETS

_OURS = ["deploy_targets", "registry", "pipelines"]
_SEED = 1
_RESTRUCTURED = 0.5
"""The share of inputs that differ from another in a value, the others in bytes."""
_HANG_S = 600
"""By the clock, after which libFuzzer ends the run: on a busy machine a process may stand still for two minutes. What merely
takes long is told by its CPU time, in `claims`."""
_MOST_FINDINGS = 20
"""Of one run, each of another error or from another line; more are of one cause, or of none."""


class _Findings:
    """What a run finds: of each kind the first, written where it is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kinds: set[tuple[str, str, int]] = set()

    def watched(self, run: Callable[[bytes], bool]) -> Callable[[bytes], None]:
        """`run`, after whose failure the next input has its turn."""

        def once(data: bytes) -> None:
            try:
                run(data)
            except Exception as error:  # noqa: BLE001 - the top of the loop: each is written down and counted
                self._keep(data, error)

        return once

    def _keep(self, data: bytes, error: Exception) -> None:
        trace = error.__traceback__
        place = ("", 0)
        while trace is not None:
            place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
            trace = trace.tb_next
        kind = (type(error).__name__, *place)
        if isinstance(error, AssertionError):
            kind = (kind[0], str(error.args[:1]), 0)
        if kind in self._kinds or len(self._kinds) == _MOST_FINDINGS:
            return
        self._kinds.add(kind)
        file = self._folder / f"found-{kind[0].lower()}-{sha256(data).hexdigest()[:8]}"
        file.write_bytes(data)
        told = f"{type(error).__name__}: {error}"[:500]
        print(f"FINDING {file.name} ({Path(place[0]).name}:{place[1]}) {told!r}", flush=True)


def _fuzz(name: str, runs: int, grown: str) -> None:
    """Does not come back: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=_OURS):
        # Imported anew, so that the instrumented modules are the ones that are called.
        for module in [one for one in sys.modules if one.split(".")[0] in {*_OURS, "tests"}]:
            del sys.modules[module]
        from tests.fuzz.mutations import restructured
        from tests.fuzz.targets import CORPUS, TARGETS
    words = Path(grown).parent / f"{name}.words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in TARGETS[name].words))
    run = _Findings(CORPUS / name).watched(TARGETS[name].run)
    options = [
        f"-runs={runs}", f"-seed={_SEED}", f"-max_len={MOST_BYTES}", f"-dict={words}", f"-timeout={_HANG_S}", "-rss_limit_mb=4096",
        f"-artifact_prefix={CORPUS / name}/found-", "-print_final_stats=1",
    ]  # fmt: skip

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        dice = Random(seed)
        changed = data
        if dice.random() < _RESTRUCTURED:
            changed = restructured(data, TARGETS[name].form, dice)[:most]
        return atheris.Mutate(data, most) if changed == data else changed

    atheris.Setup([sys.argv[0], *options, grown, str(CORPUS / name)], run, custom_mutator=mutate)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _run_one(name: str, runs: int) -> bool:
    """Whether the target was run to its end and nothing was found; prints its line."""
    started = _cpu_s()
    with TemporaryDirectory(prefix="fuzz-") as folder:
        grown = Path(folder) / "grown"
        grown.mkdir()
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            name,
            "--runs",
            str(runs),
            "--grown",
            str(grown),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            errors="replace",
            env={**os.environ, "TMPDIR": folder},
        )
        kept = len(list(grown.iterdir())) + len(list((CORPUS / name).iterdir()))
    seconds = _cpu_s() - started
    said = done.stdout + done.stderr
    findings = re.findall(r"^FINDING .*$", said, flags=re.MULTILINE)
    ended = re.findall(r"^#(\d+)\s+DONE\s+cov: (\d+)", said, flags=re.MULTILINE)
    made, covered = ended[-1] if ended else ("?", "?")
    print(
        f"{name:15} {made:>7} runs {seconds:6.0f} s of CPU  corpus {kept:4}  coverage {covered:>5}  findings {len(findings)}",
        flush=True,
    )
    for finding in findings:
        print(f"  {finding}")
    if not ended:
        print("\n".join(said.splitlines()[-15:]))
    return bool(ended) and not findings and done.returncode == 0


def _cpu_s() -> float:
    """Of all processes that have ended below this one: what the clock says depends on who else is busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str]) -> int:
    """0 where nothing is found, 1 else."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--grown", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.grown:
        _fuzz(chosen.targets[0], chosen.runs, chosen.grown)
    results = [_run_one(name, chosen.runs) for name in chosen.targets or TARGETS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
