"""auto-gptq as a format: what it wrote is understood, and what we write can be made readable for it.

The project ended with 0.7.1 (transformers 4.40, tokenizers 0.19). Weights are never touched: both sides write GPTQ's first
format. What differs are names, a few fields, and a tied output head, which its loader leaves at zero.
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

from pipelines.checkpoint import read_config, read_json
from pipelines.quantize.served_by import WeightFormat, format_of
from registry.errors import SourceInvalid

_CONFIG = "quantize_config.json"
_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_MODELS = frozenset(
    {"bloom", "codegen", "falcon", "gemma", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "llama", "mistral", "mixtral", "opt", "qwen2"}
)  # fmt: skip
"""Of those that 0.7.1 lists, the ones that transformers still knows."""
_KEPT = (
    "bits",
    "group_size",
    "damp_percent",
    "desc_act",
    "static_groups",
    "sym",
    "true_sequential",
)


def adopt(folder: Path, *, where: str) -> bool:
    """Gives a checkpoint in auto-gptq's layout today's names, in place; says whether it was one.

    The configuration goes into config.json, and the weights are called `model.safetensors`. Its own notes of where the
    model lay on its maker's machine go.

    Raises:
        SourceInvalid: it is a layout of auto-gptq's that nobody else reads (Marlin, AWQ), or its configuration is broken.
    """
    config_file = folder / _CONFIG
    named = sorted(folder.glob("gptq_model-*bit-*g.safetensors*"))
    if not config_file.is_file():
        return False
    config = read_config(folder, where=where)
    if "quantization_config" in config and not named:
        return False
    told = read_json(config_file, where=where)
    if told.get("is_marlin_format") or told.get("version") == "GEMM":
        message = (
            f"{where} is in auto-gptq's Marlin or AWQ layout, which nothing else reads. "
            "Quantize the unquantized model again, or save it in the layout gptq."
        )
        raise SourceInvalid(message)
    _rename(folder, named, where)
    settings = {key: told[key] for key in _KEPT if key in told}
    if not {"bits", "group_size"} <= settings.keys():
        message = f"{_CONFIG} of {where} lacks bits or group_size, so its weights cannot be read."
        raise SourceInvalid(message)
    settings |= {"quant_method": "gptq", "checkpoint_format": "gptq"}
    config.pop("_name_or_path", None)
    _write(folder / "config.json", {**config, "quantization_config": settings})
    _write(config_file, settings)
    return True


def export(folder: Path, out: Path) -> None:
    """Writes into `out`, which is made, a copy of the GPTQ checkpoint in `folder` that auto-gptq 0.7.1 loads as it is.

    Raises:
        SourceInvalid: its weights are not in GPTQ's first format, or auto-gptq does not know such a model; `out` exists.
    """
    config = read_config(folder, where=str(folder))
    if (written := format_of(config)) is not WeightFormat.GPTQ:
        message = (
            f"{folder} holds weights of format {written or 'unknown'}; auto-gptq reads gptq alone. "
            "Quantize with `method: gptq` and `checkpoint_format: gptq`."
        )
        raise SourceInvalid(message)
    if (kind := config.get("model_type")) not in _MODELS:
        message = f"auto-gptq 0.7.1 knows no models of type {kind}; it knows {', '.join(sorted(_MODELS))}."
        raise SourceInvalid(message)
    if out.exists():
        message = f"{out} is there already. Name a new folder."
        raise SourceInvalid(message)
    quantized = config.pop("quantization_config")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(folder, partial)
        if config.get("tie_word_embeddings"):
            _write_out_head(partial, str(folder))
            config["tie_word_embeddings"] = False
        _write(partial / "config.json", _of_its_day(config, str(folder)))
        told = {**quantized.get("meta", {}), **quantized}
        _write(partial / _CONFIG, {key: told[key] for key in _KEPT if key in told})
        _age_tokenizer(partial, str(folder))
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(folder: Path, named: list[Path], where: str) -> None:
    """The one file, or the index of several, under the name that transformers looks for."""
    if not named:
        return
    indexes = [file for file in named if file.name.endswith(".index.json")]
    chosen = indexes or named
    if len(chosen) > 1:
        message = f"{where} holds {len(chosen)} sets of weights ({', '.join(f.name for f in chosen)}). Leave one."
        raise SourceInvalid(message)
    chosen[0].rename(folder / (_INDEX if indexes else _WEIGHTS))


def _of_its_day(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The model's configuration with the fields that transformers 4.40 reads."""
    rope: dict[str, Any] = config.pop("rope_parameters", None) or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
    kind = rope.get("rope_type", "default")
    if kind in {"linear", "dynamic"}:
        config["rope_scaling"] = {"type": kind, "factor": rope["factor"]}
    elif kind != "default":
        message = f"{where} stretches its positions by `{kind}`, which transformers 4.40 does not know, so auto-gptq cannot read it."
        raise SourceInvalid(message)
    config.pop("dtype", None)
    return {**config, "torch_dtype": "float16"}


def _write_out_head(folder: Path, where: str) -> None:
    """Puts the output head, which is the embedding, into the file that holds the embedding."""
    from safetensors import safe_open
    from safetensors import torch as safetensors_torch

    files: Any = safetensors_torch
    for file in sorted(folder.glob("*.safetensors")):
        opened: Any = safe_open(file, framework="pt")
        with opened as weights:
            names = set(weights.keys())
            notes = weights.metadata()
        if _HEAD in names:
            return
        if _EMBEDDING not in names:
            continue
        tensors = files.load_file(file)
        tensors[_HEAD] = tensors[_EMBEDDING].clone()
        files.save_file(tensors, file, metadata=notes)
        file.chmod(0o644)
        if (folder / _INDEX).exists():
            index = read_json(folder / _INDEX, where=where)
            index["weight_map"][_HEAD] = file.name
            _write(folder / _INDEX, index)
        return
    message = f"{where} ties its output head to {_EMBEDDING}, which is not among its weights, so auto-gptq would answer nonsense."
    raise SourceInvalid(message)


def _age_tokenizer(folder: Path, where: str) -> None:
    """Merges as words rather than pairs, and a class that transformers 4.40 has."""
    file = folder / "tokenizer.json"
    if not file.exists():
        return
    document = read_json(file, where=where)
    merges: list[Any] = document["model"].get("merges", [])
    pairs = cast("list[list[str]]", [merge for merge in merges if isinstance(merge, list)])
    if any(" " in part for pair in pairs for part in pair):
        message = f"The tokenizer of {where} joins pieces with spaces in them, which the tokenizers of auto-gptq's day cannot read."
        raise SourceInvalid(message)
    if pairs:
        document["model"]["merges"] = [" ".join(pair) for pair in pairs]
    file.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    settings_file = folder / "tokenizer_config.json"
    settings = read_json(settings_file, where=where) if settings_file.exists() else {}
    settings = {k: v for k, v in settings.items() if k in _TOKENIZER_SETTINGS}
    template = folder / "chat_template.jinja"
    if template.exists():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    _write(settings_file, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})


_TOKENIZER_SETTINGS = frozenset(
    {"bos_token", "eos_token", "pad_token", "unk_token", "chat_template", "model_max_length", "padding_side"}
)  # fmt: skip


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
