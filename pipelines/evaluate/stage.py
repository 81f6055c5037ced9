"""The stage `evaluate`: scores of a model and its base, and the gate's answer. Its entry point is `pipelines.compare`.

A model's scores are kept by its digest, so a base is measured once. The answer lies in the work folder's
`evaluation.json`, which `version` reads.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pipelines.datasets import DataFolder
from pipelines.evaluate.agreement import KEPT_TOKENS, MAX_PROMPT_TOKENS
from pipelines.evaluate.answers import MAX_ANSWER_TOKENS, MAX_JSON_TOKENS
from pipelines.evaluate.measure import Measures, measure
from pipelines.evaluate.perplexity import MAX_WINDOWS, WINDOW_TOKENS
from pipelines.evaluate.prompts import read_prompts
from pipelines.evaluate.speed import Performance
from pipelines.evaluate.tasks import read_tasks
from pipelines.loading import has_gpu
from pipelines.progress import Announcer
from pipelines.session import Model, Session, Stage
from pipelines.workbench import Product, code_of, key_of
from registry.digests import describe_folder, digest_file
from registry.errors import BadInput, IntegrityError, NotFound
from registry.gate import Champion, Gate, Margins, decide
from registry.promotion import CHAMPION, champion_of
from registry.release import DIGEST_TAG, GATE_TAG, Digest, parse_digest
from registry.scorecard import Scorecard

_LIBRARIES = ("torch", "transformers", "lm-eval", "gptqmodel", "torchao")
_SCORES = "scorecard.json"
_EVALUATION = "evaluation.json"
_REFERENCE = "reference.safetensors"
_PERFORMANCE = "performance.json"
_PER_TOKEN = "divergence"  # noqa: S105 - a score's name
"""Told only of models that cut text into the same tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What `evaluate` hands on about a model."""

    model: Digest
    base: Digest
    scorecard: Scorecard
    gate: Gate
    performance: Performance

    def to_json(self) -> str:
        """As it is written to `evaluation.json`."""
        document = {
            "model": self.model,
            "base": self.base,
            "scorecard": self.scorecard.to_document(),
            "gate": self.gate.to_document(),
            "performance": asdict(self.performance),
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def read(cls, file: Path) -> Self:
        """The evaluation in `file`.

        Raises:
            BadInput: there is none.
            IntegrityError: it is broken.
        """
        try:
            document: Any = json.loads(file.read_text())
            return cls(
                model=parse_digest(document["model"]),
                base=parse_digest(document["base"]),
                scorecard=Scorecard.from_document(document["scorecard"]),
                gate=Gate.from_document(document["gate"]),
                performance=Performance(**document["performance"]),
            )
        except OSError as error:
            message = f"There is no evaluation at {file}. Give the evaluation.json that `evaluate` printed."
            raise BadInput(message) from error
        except (ValueError, KeyError, TypeError, IntegrityError) as error:
            message = f"The evaluation {file} cannot be read ({error}). Run `evaluate` again."
            raise IntegrityError(message) from error


def evaluate(
    session: Session, *, base: Model, model: Model, data: DataFolder, margins: Margins, name: str
) -> tuple[Evaluation, Path]:
    """Scores of `model` and `base`, and the gate's answer; also where they are written.

    `name` is the registered model whose champion is compared with; empty for none.

    Raises:
        BadInput: texts or tasks cannot be used.
        StageFailed: a model cannot be loaded or run.
    """
    measures = read_measures(data)
    with session.stage("evaluate", f"texts, tasks and prompts of {data.tasks.parent}") as stage:
        stage.log_inputs(
            {
                "base model": (str(base.folder), base.digest),
                "model": (str(model.folder), model.digest),
                "perplexity text": (str(data.perplexity), digest_file(data.perplexity)),
                "tasks": (str(data.tasks), describe_folder(data.tasks).digest),
                "prompts": ("agreement, golden prompts and format", measures.prompts.digest),
            }
        )
        scorer = Scorer(session=session, stage=stage, measures=measures, base=base)
        based = scorer.score("base", base)
        scored = based if model.digest == base.digest else scorer.score("model", model, based)
        champion = _champion(scorer, name, based) if name else None
        gate = decide(scored.scorecard, base=based.scorecard, champion=champion, margins=margins)
        evaluation = Evaluation(
            model=model.digest,
            base=base.digest,
            scorecard=scored.scorecard,
            gate=gate,
            performance=scored.performance,
        )
        _tell(session.announcer, stage, {"model": scored, "base": based}, gate)
        folder = session.home / "work"
        file = folder / f"{_EVALUATION.removesuffix('.json')}-{stage.run_id}.json"
        file.write_text(evaluation.to_json())
        stage.log_text(evaluation.to_json(), _EVALUATION)
    return evaluation, file


def read_measures(data: DataFolder) -> Measures:
    """What lies in `data` to measure with.

    Raises:
        BadInput: it cannot be used.
    """
    return Measures(
        data=data, tasks=read_tasks(data.tasks), prompts=read_prompts(data.tasks.parent)
    )


def evaluation_of(measures: Measures) -> str:
    """The name of texts, tasks, prompts and settings, as scorecards have it."""
    return key_of(_what(measures))


def _what(measures: Measures) -> dict[str, Any]:
    data = measures.data
    return {
        "perplexity": digest_file(data.perplexity),
        "tasks": describe_folder(data.tasks).digest,
        "window_tokens": WINDOW_TOKENS,
        "windows": MAX_WINDOWS,
        "prompts": measures.prompts.digest,
        "prompt_tokens": (MAX_PROMPT_TOKENS, KEPT_TOKENS, MAX_ANSWER_TOKENS, MAX_JSON_TOKENS),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What was measured of a model."""

    scorecard: Scorecard
    performance: Performance
    folder: Path
    """The work folder that holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Measures models in one stage, all with the same texts and against the same base."""

    session: Session
    stage: Stage
    measures: Measures
    base: Model

    def score(
        self, who: str, model: Model, based: Scored | None = None, *, is_of_base: bool = True
    ) -> Scored:
        """The model's scores, measured now or when the same bytes were measured before.

        `based` is what was measured of the base, against which the others are; only the base itself has none. A model
        that is not of that base (`is_of_base`) need not cut text into the same tokens.
        """
        announcer = self.session.announcer

        def work(folder: Path) -> Product:
            predictions = folder if based is None else based.folder
            scores, performance = measure(
                model.folder,
                self.measures,
                announcer,
                who=who,
                reference=predictions / _REFERENCE,
                is_base=based is None,
                is_of_base=is_of_base,
            )
            card = Scorecard(evaluation=evaluation_of(self.measures), scores=scores)
            (folder / _SCORES).write_text(card.to_json())
            (folder / _PERFORMANCE).write_text(json.dumps(asdict(performance)))
            return Product()

        key = {
            "model": model.digest,
            "base": self.base.digest,
            "what": _what(self.measures),
            "device": "cuda" if has_gpu() else "cpu",
            "code": code_of(__file__, _LIBRARIES),
        }
        finished = self.stage.do(key, work)
        earlier = ", earlier" if finished.is_reused else ""
        announcer.say("evaluate", f"{who} measured in {finished.seconds:.1f} s{earlier}")
        return Scored(
            scorecard=Scorecard.from_document(json.loads((finished.folder / _SCORES).read_text())),
            performance=Performance(**json.loads((finished.folder / _PERFORMANCE).read_text())),
            folder=finished.folder,
        )


def _champion(scorer: Scorer, name: str, based: Scored) -> Champion | None:
    """The champion with its scores on these texts: the ones it was registered with, or taken now where those were others.

    Raises:
        IntegrityError: its bytes are not those of its digest.
    """
    session = scorer.session
    try:
        number = session.registry.aliases(name).get(CHAMPION)
        version = None if number is None else session.registry.version(name, number)
    except NotFound:
        return None
    if version is None:
        return None
    if DIGEST_TAG not in version.tags:
        session.announcer.say(
            "evaluate", f"the champion v{number} has no digest, so that nothing is compared with it"
        )
        return None
    digest = parse_digest(version.tags[DIGEST_TAG])
    card = champion_of(version).scorecard
    if card.evaluation != evaluation_of(scorer.measures):
        session.announcer.say(
            "evaluate",
            f"the champion v{number} was measured on other texts, and is measured on these",
        )
        folder = session.store.fetch(
            version.source, digest, into=session.home / "work" / "champion"
        )
        card = scorer.score("champion", Model.at(folder), based, is_of_base=False).scorecard
        if _PER_TOKEN not in card.scores:
            session.announcer.say(
                "evaluate",
                f"the champion v{number} cuts text into other tokens: compared with it are tasks and answers alone",
            )
    return Champion(version=version.version, digest=digest, scorecard=card)


def _tell(announcer: Announcer, stage: Stage, measured: Mapping[str, Scored], gate: Gate) -> None:
    """Writes the numbers on the run, each with its standard error, and says them."""
    metrics = {f"gate.{name}": value for name, value in gate.numbers.items()}
    for who, scored in measured.items():
        prefix = "" if who == "model" else f"{who}."
        for name, score in scored.scorecard.scores.items():
            metrics |= {f"{prefix}{name}": score.value, f"{prefix}{name}_se": score.stderr}
        metrics |= {f"{prefix}{name}": v for name, v in scored.performance.numbers.items()}
    stage.log_metrics({**metrics, "gate.passed": float(gate.passed)})
    machine = measured["model"].performance.machine
    stage.set_tags({GATE_TAG: json.dumps(asdict(gate.result)), "shipway.machine": machine})
    for name, score in measured["model"].scorecard.scores.items():
        base = measured["base"].scorecard.scores[name]
        announcer.say(
            "evaluate",
            f"{name} {score.value:.4g} ± {score.stderr:.2g}, unquantized {base.value:.4g} ± {base.stderr:.2g}",
        )
    took, before = (measured[who].performance.numbers for who in ("model", "base"))
    for name in ("prefill_tokens_s", "decode_tokens_s", "weights_bytes", "peak_memory_bytes"):
        announcer.say("evaluate", f"{name} {took[name]:.4g}, unquantized {before[name]:.4g}")
    announcer.say("evaluate", f"on {machine}")
    announcer.say(
        "evaluate", "gate passed" if gate.passed else f"gate FAILED: {'; '.join(gate.reasons)}"
    )
