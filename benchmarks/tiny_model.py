"""A model of random weights and a tokenizer of bytes: the torch engine's real work, at a thousandth of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIALS = ("<|end|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
)


def write_tiny_model(folder: Path, context_length: int = 2048) -> Path:
    """Write a Llama of two layers, 64 wide, into ``folder``; returns the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    vocabulary = {text: index for index, text in enumerate([*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(vocabulary) + 1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
        eos_token_id=0,
        bos_token_id=0,
    )
    model: Any = AutoModelForCausalLM
    model.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    return folder
