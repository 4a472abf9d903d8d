"""What this compiler makes of every field of ``config.json`` that ``transformers`` reads for Gemma 3n.

``transformers`` keeps any field of a ``config.json`` as an attribute, so leftovers of trainers and quantisers are
common. What decides is what its code reads: each such field is read here too (:data:`READ`), may have no other value
than the one this compiler implements (:data:`FIXED`), or cannot change what the model computes (:data:`HARMLESS`). A
field that its code never reads cannot change anything, and is never looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from g3n_compiler.checkpoint.fields import Section

TEXT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_activation", "max_position_embeddings", "rms_norm_eps", "sliding_window",
    "layer_types", "final_logit_softcapping", "vocab_size_per_layer_input", "hidden_size_per_layer_input",
    "altup_active_idx", "altup_correct_scale", "altup_num_inputs", "num_kv_shared_layers", "laurel_rank",
    "activation_sparsity_pattern", "bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters",
)  # fmt: skip
"""Of the text model's section."""
EMBEDDER = ("hidden_size", "vocab_size", "vocab_offset", "rms_norm_eps")
"""Of each tower's section."""
VISION = ("architecture", "model_args")
AUDIO = (
    "input_feat_size", "gradient_clipping", "conf_attention_chunk_size", "conf_attention_context_left",
    "conf_attention_context_right", "conf_attention_logit_cap", "conf_num_attention_heads", "conf_num_hidden_layers",
    "conf_conv_kernel_size", "conf_reduction_factor", "conf_residual_weight", "sscp_conv_channel_size",
    "sscp_conv_group_norm_eps", "sscp_conv_kernel_size", "sscp_conv_stride_size",
)  # fmt: skip
WHOLE = (
    "text_config", "vision_config", "audio_config", "audio_soft_tokens_per_image", "vision_soft_tokens_per_image",
    "boi_token_id", "eoi_token_id", "image_token_id", "boa_token_id", "eoa_token_id", "audio_token_id",
    "tie_word_embeddings", "transformers_weights",
)  # fmt: skip
LEGACY = ("rope_scaling", "rope_theta", "rope_local_base_freq")
"""Names that ``transformers`` converts."""
READ = frozenset((*TEXT, *EMBEDDER, *VISION, *AUDIO, *WHOLE, *LEGACY))


class Fixed(NamedTuple):
    """Of a field that this compiler does not implement: the values that mean its absence, and what it would do."""

    values: tuple[Any, ...]
    effect: str


_ANYWHERE = {
    "per_layer_config": Fixed((None, {}), "it gives single layers other fields"),
    "attribute_map": Fixed(({},), "it gives fields other names"),
}
FIXED: Mapping[str, Mapping[str, Fixed]] = {
    "text": {
        **_ANYWHERE,
        "attention_bias": Fixed((False, None), "Gemma 3n's projections have no bias"),
        "is_causal": Fixed((True,), "Gemma 3n's tokens attend to earlier ones only"),
    },
    "tower": _ANYWHERE,
    "whole": {
        **_ANYWHERE,
        "configuration_files": Fixed((), "it names other files to read instead of this one"),
    },
}
"""By the kind of section; ``None`` among the values stands for null, and an absent field is always allowed."""
HARMLESS: Mapping[str, str] = {
    "altup_coef_clip": "it clips while training only",
    "attention_dropout": "it acts while training only",
    "number_of_conv_states": "only layers of convolution read it, and a layer type of that kind is refused",
    "attention_chunk_size": "only layers of chunked attention read it, and a layer type of that name is refused",
    "initializer_range": "it initialises weights, which the checkpoint has",
    "num_labels": "it belongs to a classifier's head",
    "do_pooling": "Gemma 3n calls its vision tower without pooling, whatever it says",
    "use_cache": "a cache changes the speed, not the result",
    "return_dict": "it changes the form of a Python result",
    "output_hidden_states": "it returns more, and changes nothing",
    "output_attentions": "it returns more, and changes nothing",
    "kv_sharing_modes": "transformers derives it from num_kv_shared_layers and layer_types, and refuses it in a file",
    "is_heterogeneous": "transformers derives it from per_layer_config",
    "is_encoder_decoder": "Gemma 3n has no encoder of text",
}


def check_fields(section: Section, kind: str) -> None:
    """Refuse a field that would make the model another one.

    Args:
        kind: a key of :data:`FIXED`.

    Raises:
        WrongModel: the field, its value, and what it would do.
    """
    for name, fixed in FIXED[kind].items():
        if section.has(name) and not any(_same(section.raw(name), value) for value in fixed.values):
            raise section.wrong(
                name, f"no such field: {fixed.effect}, which this compiler does not support; remove it if it is stale"
            )


def reference_fields(section: Section, names: tuple[str, ...], numbers: tuple[str, ...]) -> dict[str, Any]:
    """``names`` as they are in the file, in the types that ``transformers`` demands; ``numbers`` may be integers."""
    fields = {name: section.raw(name) for name in names if name in section}
    return fields | {name: float(fields[name]) for name in numbers if name in fields}


def _same(value: Any, other: Any) -> bool:
    """Equal and of one type: 0 is not false."""
    return type(value) is type(other) and bool(value == other)
