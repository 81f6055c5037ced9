"""Runs in auto-gptq's own environment (`make setup-auto-gptq`), where nothing of ours is installed.

`perplexity DIR TEXT WINDOWS TOKENS` loads a checkpoint as auto-gptq's documentation does, with no change to a file of it,
and prints its perplexity, its tokens and a greedy answer. `quantize BASE OUT IDS` has auto-gptq quantize on the CPU and save.
"""

import json
import sys
from pathlib import Path


def perplexity(folder: str, text: str, windows: int, tokens: int) -> dict:
    import torch
    from auto_gptq import AutoGPTQForCausalLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoGPTQForCausalLM.from_quantized(folder, device="cpu", torch_dtype=torch.float32)
    ids = tokenizer(Path(text).read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    losses = []
    with torch.inference_mode():
        for at in range(0, windows * tokens, tokens):
            window = torch.tensor([ids[at : at + tokens]])
            logits = model(input_ids=window).logits[0, :-1].float()
            losses.append(float(torch.nn.functional.cross_entropy(logits, window[0, 1:])))
        asked = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
        answer = model.generate(input_ids=asked, max_new_tokens=4, do_sample=False)[0]
    mean = sum(losses) / len(losses)
    return {
        "perplexity": float(torch.tensor(mean).exp()),
        "ids": ids[: windows * tokens],
        "answer": tokenizer.decode(answer),
    }


def quantize(base: str, out: str, ids: str) -> dict:
    import torch
    from auto_gptq import BaseQuantizeConfig
    from auto_gptq.modeling import LlamaGPTQForCausalLM, _base
    from transformers import LlamaForCausalLM

    # Its own from_pretrained refuses to begin without CUDA, and its GPTQ waits for a device that is not there. Both are
    # gone round; the arithmetic, the packing and the files are its own.
    _base.CUDA_0 = torch.device("cpu")
    torch.cuda.synchronize = lambda *_: None
    config = BaseQuantizeConfig(bits=4, group_size=32, desc_act=False)
    model = LlamaGPTQForCausalLM(
        LlamaForCausalLM.from_pretrained(base, torch_dtype=torch.float32).eval(), False, config
    )
    windows = json.loads(Path(ids).read_text())
    model.quantize(
        [
            {"input_ids": torch.tensor([w]), "attention_mask": torch.ones(1, len(w))}
            for w in windows
        ],
        cache_examples_on_gpu=False,
    )
    model.save_quantized(out)
    return {"files": sorted(path.name for path in Path(out).iterdir())}


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    if what == "perplexity":
        told = perplexity(given[0], given[1], int(given[2]), int(given[3]))
    else:
        told = quantize(*given)
    sys.stdout.write(f"\n{json.dumps(told)}\n")
