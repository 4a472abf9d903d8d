"""Write nano's weights as a Hugging Face checkpoint in the real model's form."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Gemma3nTextConfig, GenerationConfig

from nano_training import tokenizer


def _dead_weights(config: Gemma3nTextConfig) -> dict[str, Tensor]:
    """k/v weights of KV-shared layers: the published checkpoints contain them too, although nothing reads them."""
    generator = torch.Generator().manual_seed(0)
    dead: dict[str, Tensor] = {}
    for layer in range(config.num_hidden_layers - config.num_kv_shared_layers, config.num_hidden_layers):
        prefix = f"model.layers.{layer}.self_attn."
        for name in ("k_proj", "v_proj"):
            shape = (config.num_key_value_heads * config.head_dim, config.hidden_size)
            dead[f"{prefix}{name}.weight"] = torch.randn(shape, generator=generator) * config.initializer_range
        dead[f"{prefix}k_norm.weight"] = torch.ones(config.head_dim)
    return dead


def export(config: Gemma3nTextConfig, weights: Mapping[str, Tensor], tokenizer_folder: Path, out: Path) -> None:
    """A complete checkpoint folder: bf16 weights, configurations and tokenizer files."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(tokenizer_folder, out)
    stored = {**_dead_weights(config), **weights}
    tensors = {name: w.detach().to(torch.bfloat16).contiguous() for name, w in sorted(stored.items())}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # the writer makes it readable by its owner only
    config.dtype = torch.bfloat16
    config.save_pretrained(out)
    GenerationConfig(
        bos_token_id=tokenizer.BOS_ID,
        eos_token_id=[tokenizer.EOS_ID, tokenizer.END_OF_TURN_ID],
        pad_token_id=tokenizer.PAD_ID,
        do_sample=True,
        temperature=1.0,
        top_k=64,
        top_p=0.95,
    ).save_pretrained(out)
