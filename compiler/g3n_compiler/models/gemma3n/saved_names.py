"""The names that savers give the tensors of a Gemma 3n.

Tried with ``transformers`` 5.23: ``taken`` is whether ``from_pretrained`` of the class that ``config.json`` names reads
them (``transformers/conversion_mapping.py`` and the base model's prefix).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from g3n_compiler.checkpoint.tensor_names import HEAD, Naming, Prefix

MULTIMODAL = "Gemma3nForConditionalGeneration.save_pretrained"
TEXT_ONLY = "Gemma3nForCausalLM.save_pretrained"
BASE = "the base model's save_pretrained"
NESTED = "transformers 5.10 to 5.22"
OLD = "a saver of LLaVA's old layout"
WITHIN = "a saver of a model inside another one"
BUFFERS = frozenset(
    {"inv_freq", "original_inv_freq", "full_attention_inv_freq", "full_attention_original_inv_freq", "embed_scale",
     "sliding_attention_inv_freq", "sliding_attention_original_inv_freq", "router_input_scale", "per_layer_input_scale",
     "per_layer_projection_scale", "gradient_clipping", "softcap", "q_scale", "inv_timescales",
     "local_causal_valid_mask", "position_ids", "num_batches_tracked"}
)  # fmt: skip
"""What ``Gemma3nModel.named_buffers`` makes of the configuration and does not save."""


def naming(config: Mapping[str, Any]) -> Naming:
    """The names of a checkpoint with this ``config.json``; one without towers has the text model's own layout."""
    tied = config.get("tie_word_embeddings", True) is not False
    if config.get("model_type") == "gemma3n_text":
        text: tuple[Prefix, ...] = (
            Prefix("model.", TEXT_ONLY),
            Prefix("", BASE),
            Prefix("model.language_model.", MULTIMODAL),
            Prefix("model.language_model.model.", NESTED),
            Prefix("model.model.", WITHIN),
            Prefix("language_model.", "Gemma3nModel.save_pretrained", False),
            Prefix("language_model.model.", OLD, False),
        )
        heads = {HEAD, "model.lm_head.weight", "model.language_model.lm_head.weight"}
    else:
        text = (
            Prefix("model.language_model.", MULTIMODAL),
            Prefix("language_model.", BASE),
            Prefix("model.language_model.model.", NESTED),
            Prefix("language_model.model.model.", NESTED),
            Prefix("model.model.language_model.", WITHIN),
            Prefix("language_model.model.", OLD, False),
            Prefix("model.", TEXT_ONLY, False),
            Prefix("", "Gemma3nTextModel.save_pretrained", False),
        )
        heads = {HEAD, "model.lm_head.weight"}
    towers = (Prefix("model.", MULTIMODAL), Prefix("", BASE), Prefix("model.model.", WITHIN))
    return Naming(text, towers, frozenset(heads), tied, config.get("model_type") != "gemma3n_text", BUFFERS)
