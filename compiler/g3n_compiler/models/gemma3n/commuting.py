"""Where factors and rotations commute in Gemma 3n's decoder; see :class:`.decoder.TextDecoder` for the arithmetic."""

from __future__ import annotations

from g3n_compiler.models.commuting import Channels, Producer, Turn
from g3n_compiler.models.gemma3n.text_config import TextConfig


def channels(config: TextConfig) -> list[Channels]:
    """Every place where a factor for each channel can be moved.

    * The gain of a norm and the matrices that read the norm, if nothing else does. ``input_layernorm`` is not among
      them: LAUREL adds the normalised stream itself.
    * ``up_proj`` multiplies the gate's activation, and ``down_proj`` reads the product.
    * ``correct_output_scale`` is read by ``per_layer_input_gate`` alone.
    * A layer's input is a norm's output plus a row of the per-layer table, times a gate; the norm is one for all
      layers, so the factors are too.
    * LAUREL's two matrices follow each other.
    """
    found = []
    for i in range(config.num_layers):
        p = f"layers.{i}."
        norm, up = p + "pre_feedforward_layernorm.weight", p + "mlp.up_proj.weight"
        left = Producer(p + "laurel.linear_left.weight", p + "input_layernorm.weight")
        found += [
            Channels(p + "laurel", (left,), (p + "laurel.linear_right.weight",)),
            Channels(p + "mlp.input", (Producer(norm),), (p + "mlp.gate_proj.weight", up)),
            Channels(p + "mlp.hidden", (Producer(up, norm),), (p + "mlp.down_proj.weight",)),
        ]
        if config.altup_correct_scale:
            scale = Producer(p + "altup.correct_output_scale")
            found.append(Channels(p + "per_layer_input_gate", (scale,), (p + "per_layer_input_gate.weight",)))
    table = Producer("embed_tokens_per_layer.weight", tables=config.num_layers)
    readers = tuple(f"layers.{i}.per_layer_projection.weight" for i in range(config.num_layers))
    found.append(Channels("per_layer_projection", (Producer("per_layer_projection_norm.weight"), table), readers))
    return found


def turns(config: TextConfig) -> list[Turn]:
    """Each owner of values, and the layers that read them: values are normalised, which a rotation leaves as it is."""
    owners = range(config.num_kv_layers)
    readers = {owner: [i for i in range(config.num_layers) if config.kv_owner(i) == owner] for owner in owners}
    return [
        Turn(
            f"layers.{owner}.self_attn.v_proj.weight",
            tuple(f"layers.{i}.self_attn.o_proj.weight" for i in readers[owner]),
            config.num_kv_heads,
            config.head_dim,
        )
        for owner in owners
    ]
