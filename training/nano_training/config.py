"""nano's architecture (the real model's structure at hidden size 128) and its MatFormer slices."""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor
from transformers import Gemma3nTextConfig

from nano_training import tokenizer

LAYERS = 10
FFN_WIDTH = 512
_SLIDING, _FULL = "sliding_attention", "full_attention"
_PREFIX = "model."


def full_config() -> Gemma3nTextConfig:
    """The whole model. Layers 0-4 own KV caches; later sliding layers read layer 3's, later full layers layer 4's."""
    return Gemma3nTextConfig(
        architectures=["Gemma3nForCausalLM"],
        vocab_size=tokenizer.VOCAB_SIZE,
        vocab_size_per_layer_input=tokenizer.TEXT_VOCAB_SIZE,
        hidden_size=128,
        hidden_size_per_layer_input=32,
        intermediate_size=[FFN_WIDTH] * LAYERS,
        num_hidden_layers=LAYERS,
        layer_types=([_SLIDING] * 4 + [_FULL]) * 2,
        num_kv_shared_layers=5,
        activation_sparsity_pattern=[0.95] * 3 + [0.0] * 7,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        laurel_rank=16,
        sliding_window=64,
        max_position_embeddings=4096,
        rope_parameters={
            _FULL: {"rope_type": "default", "rope_theta": 1e6},
            _SLIDING: {"rope_type": "default", "rope_theta": 1e4},
        },
        pad_token_id=tokenizer.PAD_ID,
        bos_token_id=tokenizer.BOS_ID,
        eos_token_id=[tokenizer.EOS_ID, tokenizer.END_OF_TURN_ID],
        tie_word_embeddings=True,
    )


def slice_config(full: Gemma3nTextConfig, widths: Sequence[int], skip: Collection[int] = ()) -> Gemma3nTextConfig:
    """The configuration without the layers ``skip``; ``widths`` are the FFN widths of the layers that are kept.

    A kept layer keeps its own type and sparsity; only KV-shared layers can be skipped.
    """
    first_shared = full.num_hidden_layers - full.num_kv_shared_layers
    if any(layer < first_shared for layer in skip):
        raise ValueError(
            f"layers {sorted(skip)}: only layers {first_shared} and later own no KV cache and can be skipped"
        )
    kept = [i for i in range(full.num_hidden_layers) if i not in skip]
    changed = full.to_dict() | {
        "num_hidden_layers": len(kept),
        "num_kv_shared_layers": full.num_kv_shared_layers - len(skip),
        "intermediate_size": list(widths),
        "layer_types": [full.layer_types[i] for i in kept],
        "activation_sparsity_pattern": [full.activation_sparsity_pattern[i] for i in kept],
    }
    return Gemma3nTextConfig(**changed)


def slice_weights(
    weights: Mapping[str, Tensor], full: Gemma3nTextConfig, widths: Sequence[int], skip: Collection[int] = ()
) -> dict[str, Tensor]:
    """Views of ``weights`` (names of ``Gemma3nForCausalLM``) for the model of :func:`slice_config`.

    Gradients flow back into ``weights``. ``gate_proj``/``up_proj`` (F, D) keep their first rows, ``down_proj`` (D, F)
    its first columns, and ``embed_tokens_per_layer`` (V, L*P) and ``per_layer_model_projection`` (L*P, D) the kept
    layers.
    """
    layers, width = full.num_hidden_layers, full.hidden_size_per_layer_input
    kept = [i for i in range(layers) if i not in skip]
    renumbered = {f"{_PREFIX}layers.{old}.": new for new, old in enumerate(kept)}
    sliced: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.startswith(f"{_PREFIX}layers."):
            head = ".".join(name.split(".", 3)[:3]) + "."
            if head not in renumbered:
                continue
            new = renumbered[head]
            if name.endswith(("gate_proj.weight", "up_proj.weight")):
                tensor = tensor[: widths[new]]
            elif name.endswith("down_proj.weight"):
                tensor = tensor[:, : widths[new]]
            name = f"{_PREFIX}layers.{new}.{name[len(head) :]}"
        elif skip and name.endswith("embed_tokens_per_layer.weight"):
            tensor = tensor.view(-1, layers, width)[:, kept].reshape(-1, len(kept) * width)
        elif skip and name.endswith("per_layer_model_projection.weight"):
            tensor = tensor.view(layers, width, -1)[kept].reshape(len(kept) * width, -1)
        sliced[name] = tensor
    return sliced
