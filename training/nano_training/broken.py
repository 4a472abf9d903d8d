"""Gemma 3n in ``transformers`` with one mechanism broken on purpose, to see which task of nano's shows it."""

from collections.abc import Callable
from typing import Any

import torch


def _whole(model: Any) -> None:
    """Nothing is broken."""


def _fused_attention(model: Any) -> None:
    """Another order of the same float32 arithmetic."""
    model.config._attn_implementation = "sdpa"


def _window(model: Any) -> None:
    model.config.sliding_window -= 1


def _wrong_owner(model: Any) -> None:
    """The KV-shared sliding layers read the cache of the sliding layer before their owner."""
    layers = model.model.layers
    owner = next(
        layer.self_attn for layer in layers if layer.self_attn.store_full_length_kv and layer.self_attn.is_sliding
    )
    before = layers[owner.layer_idx - 1].self_attn
    owner.store_full_length_kv, before.store_full_length_kv = False, True


def _rope(model: Any) -> None:
    rotary = model.model.rotary_emb
    rotary.sliding_attention_inv_freq = rotary.full_attention_inv_freq.clone()


def _prediction(model: Any) -> None:
    for layer in model.model.layers:
        layer.altup.prediction_coefs.weight.zero_()


def _correction(model: Any) -> None:
    for layer in model.model.layers:
        layer.altup.correct = lambda predictions, activated: predictions


def _laurel(model: Any) -> None:
    for layer in model.model.layers:
        layer.laurel.post_laurel_norm.weight.zero_()


def _per_layer_input(model: Any) -> None:
    for layer in model.model.layers:
        layer.post_per_layer_input_norm.weight.zero_()


def _sparsity(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.activation_sparsity = 0.0


def _softcap(model: Any) -> None:
    model.config.final_logit_softcapping = 1e6  # far above any logit; the library refuses none


def _head_norm(model: Any) -> None:
    """The first query head of each layer is not normed."""
    for layer in model.model.layers:
        norm = layer.self_attn.q_norm
        norm.register_forward_hook(lambda _, given, normed: torch.cat((given[0][..., :1, :], normed[..., 1:, :]), -2))


UNBROKEN: dict[str, Callable[[Any], None]] = {
    "nothing": _whole,
    "nothing, with fused attention": _fused_attention,
}
"""The whole model, and as an estimate of float32's own noise the whole model computed in another order."""

MECHANISMS: dict[str, Callable[[Any], None]] = {
    "a window one too short": _window,
    "a shared layer reads the wrong owner's cache": _wrong_owner,
    "global RoPE on local layers": _rope,
    "AltUp's prediction left out": _prediction,
    "AltUp's correction left out": _correction,
    "LAUREL left out": _laurel,
    "the per-layer input left out": _per_layer_input,
    "no sparsity": _sparsity,
    "no soft cap": _softcap,
    "one head's norm left out": _head_norm,
}
"""What each one breaks in a ``Gemma3nForCausalLM``, in place; call it without gradients."""
