"""What is told of where a version came from."""

from pathlib import Path

from pipelines.lineage import find_data, find_training
from pipelines.workbench import Product, Workbench
from registry.digests import describe_folder
from tests.builders import a_digest


def test_a_model_was_not_made_with_what_something_else_was_made_of_it_with(tmp_path) -> None:
    bench = Workbench(tmp_path)

    def work(content: str):
        def write(folder: Path) -> Product:
            (folder / "model").mkdir()
            (folder / "model" / "weights").write_text(content)
            return Product()

        return write

    base = describe_folder(bench.do("download", {}, work("base")).folder / "model").digest
    given = {"model": base, "recipe": {"calibration": a_digest("1")}}
    made = describe_folder(bench.do("quantize", given, work("small")).folder / "model").digest
    bench.do("evaluate", {"model": base, "what": {"perplexity": a_digest("2")}}, work("scores"))

    assert find_data(bench, base) == {"perplexity": a_digest("2")}
    assert find_data(bench, made) == {"calibration": a_digest("1")}


def test_a_model_was_made_with_what_its_base_was_trained_on(tmp_path) -> None:
    bench = Workbench(tmp_path)

    def train(folder: Path) -> Product:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text("merged")
        return Product()

    given = {"base": a_digest("1"), "data": a_digest("2"), "recipe": {"rank": 8}}
    merged = describe_folder(bench.do("retrain", given, train).folder / "model").digest
    assert find_training(bench, merged) == {"training": a_digest("2")}
    assert find_data(bench, merged) == {}, "it is told once, and by its name"
    assert find_training(bench, a_digest("1")) == {}
