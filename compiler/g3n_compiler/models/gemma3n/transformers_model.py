"""Gemma 3n in ``transformers``: the reference for everything else."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.text_config import gemma3n_config, text_reference
from g3n_compiler.models.gemma3n.tower_config import EmbedderConfig, Tower
from g3n_compiler.source import Source


def load_hf(source: Source) -> Any:
    """``Gemma3nForCausalLM`` in float32 with eager attention, loaded through our reader (so adapters are merged)."""
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    try:
        config = Gemma3nTextConfig(**text_reference(source.checkpoint.config, gemma3n_config(source.text)))
    except Exception as error:  # its validation raises errors from several libraries
        raise WrongModel(f"transformers does not accept config.json: {str(error)[:300]}") from None
    config._attn_implementation = "eager"
    model = Gemma3nForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "lm_head.weight":
                parameter.copy_(source.read_relative(name.removeprefix("model.")))
        if source.hard_token_rows is not None:
            # Embed the towers' ids as `Gemma3nModel` does; the tied head keeps their text rows.
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
            for tower, embedder in source.hard_token_rows.embedders.items():
                ids = torch.tensor(embedder.ids)
                rows = load_hf_embedder(source, tower, embedder)(input_ids=ids[None])[0]
                model.model.embed_tokens.weight[ids] = rows / source.text.hidden_size**0.5
    return model


def load_hf_embedder(source: Source, tower: Tower, config: EmbedderConfig) -> Any:
    """``Gemma3nMultimodalEmbedder`` of ``tower`` in float32, loaded through our reader."""
    from transformers import Gemma3nTextConfig, Gemma3nVisionConfig
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nMultimodalEmbedder

    # It reads these four fields, whichever tower's config it is.
    fields = asdict(config)
    embedder = Gemma3nMultimodalEmbedder(
        Gemma3nVisionConfig(**fields), Gemma3nTextConfig(hidden_size=source.text.hidden_size)
    )
    with torch.no_grad():
        for name, parameter in embedder.named_parameters():
            parameter.copy_(source.read_relative(f"embed_{tower}.{name}"))
    return embedder.float().eval()
