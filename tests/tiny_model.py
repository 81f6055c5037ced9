"""A real checkpoint of a few thousand random weights, with a real tokenizer: loads in milliseconds."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_model(
    folder: Path,
    *,
    template: str | None = TEMPLATE,
    seed: int = 0,
    opinion: float = 0.5,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Saves the checkpoint below `folder`, which it returns.

    Input widths are 64 and 128. `opinion` is the spread of its weights: with 0.5 it is sure of each next token, with
    0.02 it guesses, and quantization changes nothing of note.
    """
    text = Tokenizer(BPE())
    text.pre_tokenizer = ByteLevel(add_prefix_space=False)
    text.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=[END, "<|im_start|>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    text.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 3], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=text, eos_token=END)
    tokenizer.chat_template = template
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            initializer_range=opinion,
        )
    )
    # Random weights would end after any number of tokens; this one never ends by itself.
    model.lm_head.weight.data[tokenizer.eos_token_id] = 0
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
