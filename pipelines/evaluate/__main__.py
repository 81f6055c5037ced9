"""`mlflow run . -e evaluate -P base=DIR -P model=DIR`: scores of both, and the gate's answer.

A model's scores are kept by its digest, so a base is measured once. The answer lies in the work folder's
`evaluation.json`, which `version` reads.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from pipelines.datasets import DataFolder, demo_data
from pipelines.evaluate.gate import GateResult, Margins, check_scores
from pipelines.evaluate.perplexity import MAX_WINDOWS, WINDOW_TOKENS, measure_perplexity
from pipelines.evaluate.score import Kind, Score, Scorecard
from pipelines.evaluate.tasks import measure_tasks, read_tasks
from pipelines.loading import has_gpu, load_model, load_tokenizer
from pipelines.progress import Announcer, hushed
from pipelines.session import Model, Session, Stage, Switch, run_entry_point
from pipelines.workbench import Product, code_of, is_disk_full, key_of
from registry.digests import describe_folder, digest_file
from registry.errors import BadInput, IntegrityError, NotFound, ShipwayError, StageFailed
from registry.promotion import CHAMPION
from registry.release import SCORECARD_TAG, Digest, parse_digest

if TYPE_CHECKING:
    from registry.mlflow_registry import MlflowRegistry

_LIBRARIES = ("torch", "transformers", "lm-eval", "gptqmodel", "torchao")
_SCORES = "scorecard.json"
_EVALUATION = "evaluation.json"
DEFAULT_MARGINS = Margins()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What `evaluate` hands on about a model."""

    model: Digest
    base: Digest
    scorecard: Scorecard
    gate: GateResult

    def to_json(self) -> str:
        """As it is written to `evaluation.json`."""
        document = {
            "model": self.model,
            "base": self.base,
            "scorecard": self.scorecard.to_document(),
            "gate": asdict(self.gate),
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
            gate = document["gate"]
            return cls(
                model=parse_digest(document["model"]),
                base=parse_digest(document["base"]),
                scorecard=Scorecard.from_document(document["scorecard"]),
                gate=GateResult(
                    passed=gate["passed"] is True,
                    reasons=tuple(gate["reasons"]),
                    numbers=dict(gate["numbers"]),
                ),
            )
        except OSError as error:
            message = f"There is no evaluation at {file}. Give the evaluation.json that `evaluate` printed."
            raise BadInput(message) from error
        except (ValueError, KeyError, TypeError) as error:
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
    with session.stage("evaluate", f"perplexity and tasks of {data.tasks.parent}") as stage:
        stage.log_inputs(
            {
                "base model": (str(base.folder), base.digest),
                "model": (str(model.folder), model.digest),
                "perplexity text": (str(data.perplexity), digest_file(data.perplexity)),
                "tasks": (str(data.tasks), describe_folder(data.tasks).digest),
            }
        )
        cards = {
            who: _score(session, stage, who, m, data)
            for who, m in (("base", base), ("model", model))
        }
        champion = _champion(session.registry, name) if name else None
        gate = check_scores(cards["model"], base=cards["base"], champion=champion, margins=margins)
        evaluation = Evaluation(
            model=model.digest, base=base.digest, scorecard=cards["model"], gate=gate
        )
        _tell(session.announcer, stage, cards, gate)
        folder = session.home / "work"
        file = folder / f"{_EVALUATION.removesuffix('.json')}-{stage.run_id}.json"
        file.write_text(evaluation.to_json())
        stage.log_text(evaluation.to_json(), _EVALUATION)
    return evaluation, file


def _score(session: Session, stage: Stage, who: str, model: Model, data: DataFolder) -> Scorecard:
    """The model's scorecard, measured now or when the same bytes were measured before."""
    tasks = read_tasks(data.tasks)
    what = {
        "perplexity": digest_file(data.perplexity),
        "tasks": describe_folder(data.tasks).digest,
        "window_tokens": WINDOW_TOKENS,
        "windows": MAX_WINDOWS,
    }

    def measure(folder: Path) -> Product:
        samples = _measure(model, data, tasks, session.announcer, title=who)
        scores = {"perplexity": Score.of(Kind.PERPLEXITY, samples.pop("perplexity"))}
        scores |= {task: Score.of(Kind.ACCURACY, answers) for task, answers in samples.items()}
        card = Scorecard(evaluation=key_of(what), scores=scores)
        (folder / _SCORES).write_text(card.to_json())
        return Product()

    key = {
        "model": model.digest,
        "what": what,
        "device": "cuda" if has_gpu() else "cpu",
        "code": code_of(__file__, _LIBRARIES),
    }
    finished = stage.do(key, measure)
    session.announcer.say(
        "evaluate",
        f"{who} measured in {finished.seconds:.1f} s" + (", earlier" if finished.is_reused else ""),
    )
    return Scorecard.from_document(json.loads((finished.folder / _SCORES).read_text()))


def _measure(
    model: Model, data: DataFolder, tasks: tuple[Any, ...], announcer: Announcer, *, title: str
) -> dict[str, tuple[float, ...]]:
    """Loads the model once and measures everything; on the CPU in float32, which every CPU is fast at."""
    import torch

    with hushed() as said, announcer.bar(f"measuring {title}", total=MAX_WINDOWS + 1) as advance:
        try:
            tokenizer = load_tokenizer(model.folder)
            loaded = load_model(
                model.folder,
                dtype="auto" if has_gpu() else torch.float32,
                device_map="cuda:0" if has_gpu() else "cpu",
            ).eval()
            text = data.perplexity.read_text(encoding="utf-8")
            samples = {"perplexity": measure_perplexity(loaded, tokenizer, text, on_window=advance)}
            samples |= measure_tasks(loaded, tokenizer, tasks)
            advance(1)
        except ShipwayError:
            raise
        except (RuntimeError, ValueError, TypeError, OSError, ImportError, KeyError) as error:
            if is_disk_full(error):
                raise
            message = (
                f"{model.folder} could not be measured ({type(error).__name__}: {error}). "
                f"It last said:\n{said()}"
            )
            raise StageFailed(message) from error
    return samples


def _champion(registry: "MlflowRegistry", name: str) -> Scorecard | None:
    """The champion's scorecard, where there is a champion that has a readable one."""
    try:
        number = registry.aliases(name).get(CHAMPION)
        if number is None:
            return None
        text = registry.version(name, number).tags.get(SCORECARD_TAG)
        return None if text is None else Scorecard.from_document(json.loads(text))
    except (NotFound, IntegrityError, json.JSONDecodeError):
        return None


def _tell(
    announcer: Announcer, stage: Stage, cards: Mapping[str, Scorecard], gate: GateResult
) -> None:
    """Writes the numbers on the run and says them."""
    metrics = {f"gate.{name}": value for name, value in gate.numbers.items()}
    for who, card in cards.items():
        prefix = "" if who == "model" else f"{who}."
        for name, score in card.scores.items():
            metrics |= {f"{prefix}{name}": score.value, f"{prefix}{name}.stderr": score.stderr}
    stage.log_metrics({**metrics, "gate.passed": float(gate.passed)})
    stage.set_tags({"shipway.gate": json.dumps(asdict(gate))})
    for name, score in cards["model"].scores.items():
        base = cards["base"].scores[name]
        announcer.say(
            "evaluate",
            f"{name} {score.value:.4g} ± {score.stderr:.2g}, unquantized {base.value:.4g} ± {base.stderr:.2g}",
        )
    announcer.say(
        "evaluate", "gate passed" if gate.passed else f"gate FAILED: {'; '.join(gate.reasons)}"
    )


def main(  # noqa: PLR0913, PLR0917 - one argument for each option
    base: Annotated[Path, typer.Option(help="The unquantized checkpoint's folder.")],
    model: Annotated[Path, typer.Option(help="The checkpoint's folder.")],
    data: Annotated[
        str, typer.Option(help="Folder with perplexity.txt and tasks/; demo data if empty.")
    ] = "",
    name: Annotated[
        str, typer.Option(help="Registered model whose champion is compared with.")
    ] = "",
    max_perplexity_ratio: Annotated[float, typer.Option(min=1)] = DEFAULT_MARGINS.perplexity_ratio,
    max_accuracy_drop: Annotated[float, typer.Option(min=0, max=1)] = DEFAULT_MARGINS.accuracy_drop,
    fresh: Annotated[Switch, typer.Option(help="Do it again even if it is done.")] = Switch.FALSE,
) -> None:
    """Measure a checkpoint against the unquantized one and decide whether it may be promoted."""
    margins = Margins(perplexity_ratio=max_perplexity_ratio, accuracy_drop=max_accuracy_drop)
    with Session.open("evaluate", fresh=fresh is Switch.TRUE) as session:
        texts = DataFolder.at(Path(data)) if data else demo_data(session.home)
        _, file = evaluate(
            session,
            base=Model.at(base),
            model=Model.at(model),
            data=texts,
            margins=margins,
            name=name,
        )
        session.announcer.say("evaluate", str(file))


if __name__ == "__main__":
    run_entry_point(main)
