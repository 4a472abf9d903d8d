"""The weights of Gemma 3n's decoder: their names and shapes, and the tensors that inference never reads."""

from __future__ import annotations

import math

from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.weights import Role, WeightSpec


def text_weights(config: TextConfig) -> dict[str, WeightSpec]:
    """Every weight of the decoder, except the embeddings, in the order of use.

    ``per_layer_model_projection`` is divided by rows into one ``[ple_dim, hidden]`` weight for each layer, so that
    prefill only computes those of the layers that it runs.
    """
    c = config
    specs: dict[str, WeightSpec] = {}

    def add(
        name: str, shape: tuple[int, ...], role: Role, tensor: str = "", rows: tuple[int, int] | None = None
    ) -> None:
        suffix = "" if name.endswith("correct_output_scale") else ".weight"
        specs[name] = WeightSpec(name, shape, role, tensor or name + suffix, rows)

    def add_ffn(i: int) -> None:
        p, blocks, at = f"layers.{i}.mlp.", c.blocks(i), 0
        for block, width in enumerate(blocks):
            part = (at, at + width) if len(blocks) > 1 else None
            for name in ("gate_proj", "up_proj"):
                add(p + ffn_name(name, block), (width, c.hidden_size), "ffn", f"{p}{name}.weight", part)
            down = p + ffn_name("down_proj", block)
            columns = None if part is None else (part,)
            specs[down] = WeightSpec(down, (c.hidden_size, width), "ffn", f"{p}down_proj.weight", columns=columns)
            at += width

    for i in range(c.altup_num_inputs - 1):
        add(f"altup_projections.{i}", (c.hidden_size, c.hidden_size), "linear")
    add("per_layer_projection_norm", (c.ple_dim,), "float")
    for i in range(c.num_layers):
        p = f"layers.{i}."
        rows = (i * c.ple_dim, (i + 1) * c.ple_dim)
        add(
            p + "per_layer_model_projection",
            (c.ple_dim, c.hidden_size),
            "linear",
            "per_layer_model_projection.weight",
            rows,
        )
        add(p + "altup.router_norm", (c.hidden_size,), "float")
        add(p + "altup.modality_router", (c.altup_num_inputs, c.hidden_size), "float")
        add(p + "altup.prediction_coefs", (c.altup_num_inputs**2, c.altup_num_inputs), "float")
        add(p + "input_layernorm", (c.hidden_size,), "float")
        if i < c.num_kv_layers:
            add(p + "self_attn.k_proj", (c.num_kv_heads * c.head_dim, c.hidden_size), "attention")
            add(p + "self_attn.k_norm", (c.head_dim,), "float")
            add(p + "self_attn.v_proj", (c.num_kv_heads * c.head_dim, c.hidden_size), "attention")
        add(p + "self_attn.q_proj", (c.num_heads * c.head_dim, c.hidden_size), "attention")
        add(p + "self_attn.q_norm", (c.head_dim,), "float")
        add(p + "self_attn.o_proj", (c.hidden_size, c.num_heads * c.head_dim), "attention")
        add(p + "post_attention_layernorm", (c.hidden_size,), "float")
        add(p + "laurel.linear_left", (c.laurel_rank, c.hidden_size), "linear")
        add(p + "laurel.linear_right", (c.hidden_size, c.laurel_rank), "linear")
        add(p + "laurel.post_laurel_norm", (c.hidden_size,), "float")
        add(p + "pre_feedforward_layernorm", (c.hidden_size,), "float")
        add_ffn(i)
        add(p + "post_feedforward_layernorm", (c.hidden_size,), "float")
        add(p + "altup.correction_coefs", (c.altup_num_inputs, c.altup_num_inputs), "float")
        if c.altup_correct_scale:
            add(p + "altup.correct_output_scale", (c.hidden_size,), "float")
        add(p + "per_layer_input_gate", (c.ple_dim, c.hidden_size), "linear")
        add(p + "per_layer_projection", (c.hidden_size, c.ple_dim), "linear")
        add(p + "post_per_layer_input_norm", (c.hidden_size,), "float")
    for i in range(c.altup_num_inputs - 1):
        add(f"altup_unembed_projections.{i}", (c.hidden_size, c.hidden_size), "linear")
    add("norm", (c.hidden_size,), "float")
    add("lm_head", (c.vocab_size, c.hidden_size), "head", "embed_tokens.weight")
    return specs


def ffn_name(projection: str, block: int) -> str:
    """Name of a block of ``gate_proj``, ``up_proj`` or ``down_proj``; the first block has the plain name."""
    return f"{projection}.{block}" if block else projection


def core_parameters(config: TextConfig) -> int:
    """Parameters that a device must hold: all but the two embedding tables (the published "effective" parameters).

    The key and value projections of KV-shared layers count, as they do in the published figures.
    """
    width = config.num_kv_heads * config.head_dim
    dead = config.num_kv_shared_layers * (2 * width * config.hidden_size + config.head_dim)
    return dead + sum(math.prod(s.shape) for s in text_weights(config).values() if s.role != "head")


def dead_weights(config: TextConfig) -> dict[str, str]:
    """Checkpoint tensors (relative names) that inference never reads, each with the reason."""
    reason = "the layer reads the KV cache of an earlier layer"
    dead = {
        f"layers.{i}.self_attn.{part}.weight": reason
        for i in range(config.num_kv_layers, config.num_layers)
        for part in ("k_proj", "v_proj", "k_norm")
    }
    if not config.altup_correct_scale:
        dead |= {
            f"layers.{i}.altup.correct_output_scale": "altup_correct_scale is off" for i in range(config.num_layers)
        }
    return dead
