"""The models' configurations as frozen dataclasses, read from a Hugging Face ``config.json``.

Source: ``transformers`` ``Gemma3nTextConfig``, of which both the nested (``text_config``) and the flat (text-only
checkpoint) form are read, and both spellings of the RoPE bases; ``Gemma3nAudioConfig``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from g3n_compiler.errors import CheckpointError, WrongModel

LayerType = Literal["sliding_attention", "full_attention"]
MODEL_TYPES = ("gemma3n", "gemma3n_text")
SUBSAMPLING = 4
"""Mel frames for each frame of the audio tower: two convolutions of stride 2."""


@dataclass(frozen=True)
class TextConfig:
    """Shape of the decoder. Per-layer fields have one entry for each of ``num_layers`` layers."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_dims: tuple[int, ...]
    layer_types: tuple[LayerType, ...]
    sparsity: tuple[float, ...]
    num_kv_shared_layers: int
    sliding_window: int
    vocab_size: int
    ple_vocab_size: int
    ple_dim: int
    laurel_rank: int
    altup_num_inputs: int
    altup_active_idx: int
    altup_correct_scale: bool
    rms_norm_eps: float
    rope_theta_full: float
    rope_theta_sliding: float
    final_logit_softcap: float
    max_context: int
    bos_id: int
    pad_id: int
    eos_ids: tuple[int, ...]

    @property
    def num_kv_layers(self) -> int:
        """Layers that own a KV cache: the first ``num_layers - num_kv_shared_layers``."""
        return self.num_layers - self.num_kv_shared_layers

    def kv_owner(self, layer: int) -> int:
        """The layer whose keys and values ``layer`` attends to: itself, or the last owner of its attention type."""
        if layer < self.num_kv_layers:
            return layer
        kind = self.layer_types[layer]
        return max(i for i in range(self.num_kv_layers) if self.layer_types[i] == kind)

    def rope_theta(self, layer_type: LayerType) -> float:
        return self.rope_theta_full if layer_type == "full_attention" else self.rope_theta_sliding

    def is_sliding(self, layer: int) -> bool:
        return self.layer_types[layer] == "sliding_attention"

    def cache_length(self, layer: int, context: int) -> int:
        """Positions that the KV cache of an owning ``layer`` holds: the window on sliding layers, else the context."""
        return min(self.sliding_window, context) if self.is_sliding(layer) else context


@dataclass(frozen=True)
class AudioConfig:
    """Shape of the audio tower (Universal Speech Model, arXiv 2303.01037) and of its way into the text model."""

    hidden_size: int
    num_layers: int
    num_heads: int
    past: int
    """Frames before its own that a frame attends to."""
    logit_cap: float
    conv_kernel: int
    """Frames that the light convolution of a layer spans."""
    reduction: int
    """Frames for each soft token."""
    residual_weight: float
    clipping: float
    conv_channels: tuple[int, int]
    """Channels of the two subsampling convolutions."""
    group_norm_eps: float
    rms_norm_eps: float
    mel_bins: int
    text_hidden_size: int
    vocab_size: int
    vocab_offset: int
    max_soft_tokens: int
    """Soft tokens of the longest clip; the reference pads every clip to as many."""
    padding_id: int
    """The token whose embedding pads a clip, the vocabulary's last."""
    begin_id: int
    soft_id: int
    end_id: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def frames_per_token(self) -> int:
        """Mel frames of 10 ms for each soft token."""
        return SUBSAMPLING * self.reduction

    @property
    def bins(self) -> tuple[int, int, int]:
        """Frequencies that enter the first convolution, leave it, and leave the second."""
        first = (self.mel_bins + 1) // 2
        return self.mel_bins, first, (first + 1) // 2

    def soft_tokens(self, frames: int) -> int:
        """Soft tokens that ``frames`` mel frames become."""
        return -(-frames // self.frames_per_token)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``; raises :class:`CheckpointError` when it is missing or is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.name} is missing from {path.parent}: expected a Hugging Face checkpoint"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): download the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def load_text_config(directory: Path) -> TextConfig:
    """Read ``config.json`` (and ``generation_config.json`` for the stop ids) of a checkpoint folder."""
    raw = read_json(directory / "config.json")
    model_type = raw.get("model_type")
    if model_type not in MODEL_TYPES:
        raise WrongModel(
            f"config.json says model_type {model_type!r}, expected one of {', '.join(MODEL_TYPES)}: "
            "this compiler builds Gemma 3n only"
        )
    text = raw.get("text_config", raw)
    eos = text.get("eos_token_id") if raw.get("eos_token_id") is None else raw["eos_token_id"]
    generation = directory / "generation_config.json"
    if generation.exists():
        eos = read_json(generation).get("eos_token_id", eos)
    try:
        return _parse(text, eos)
    except (KeyError, TypeError, ValueError) as error:
        raise WrongModel(f"config.json does not describe a Gemma 3n text model: {error!r}") from None


def load_audio_config(directory: Path) -> AudioConfig | None:
    """Read the audio tower's part of ``config.json``; ``None`` when the model has no ears.

    Raises:
        WrongModel: the tower is of a shape that the reference does not define or that cannot be streamed.
    """
    raw = read_json(directory / "config.json")
    if not raw.get("audio_config"):
        return None
    try:
        return _parse_audio(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise WrongModel(f"config.json does not describe a Gemma 3n audio tower: {error!r}") from None


def _parse_audio(raw: dict[str, Any]) -> AudioConfig:
    audio, text = raw["audio_config"], raw["text_config"]
    for name, expected in (("sscp_conv_kernel_size", [[3, 3]] * 2), ("sscp_conv_stride_size", [[2, 2]] * 2)):
        found = [list(pair) for pair in audio.get(name, expected)]
        if found != expected:
            raise ValueError(f"{name} {found}, expected {expected}")
    if right := audio.get("conf_attention_context_right", 0):
        raise ValueError(f"conf_attention_context_right {right}: a tower that hears the future is not Gemma 3n's")
    hidden, heads = int(audio.get("hidden_size", 1536)), int(audio.get("conf_num_attention_heads", 8))
    left, channels = int(audio.get("conf_attention_context_left", 13)), audio.get("sscp_conv_channel_size", (128, 32))
    if hidden % heads or left < 2 or len(channels) != 2:
        raise ValueError(f"hidden_size {hidden}, {heads} heads, context {left}, channels {channels}")
    config = AudioConfig(
        hidden_size=hidden,
        num_layers=int(audio.get("conf_num_hidden_layers", 12)),
        num_heads=heads,
        past=left - 1,
        logit_cap=float(audio.get("conf_attention_logit_cap", 50.0)),
        conv_kernel=int(audio.get("conf_conv_kernel_size", 5)),
        reduction=int(audio.get("conf_reduction_factor", 4)),
        residual_weight=float(audio.get("conf_residual_weight", 0.5)),
        clipping=float(audio.get("gradient_clipping", 1e10)),
        conv_channels=(int(channels[0]), int(channels[1])),
        group_norm_eps=float(audio.get("sscp_conv_group_norm_eps", 1e-3)),
        rms_norm_eps=float(audio.get("rms_norm_eps", 1e-6)),
        mel_bins=int(audio.get("input_feat_size", 128)),
        text_hidden_size=int(text["hidden_size"]),
        vocab_size=int(audio.get("vocab_size", 128)),
        vocab_offset=int(audio.get("vocab_offset", 262272)),
        max_soft_tokens=int(raw.get("audio_soft_tokens_per_image", 188)),
        padding_id=int(text["vocab_size"]) - 1,
        begin_id=int(raw.get("boa_token_id", 256000)),
        soft_id=int(raw.get("audio_token_id", 262273)),
        end_id=int(raw.get("eoa_token_id", 262272)),
    )
    if config.reduction < 2:
        raise ValueError(f"conf_reduction_factor {config.reduction}: below 2 a token is shorter than what it hears")
    hard = range(config.vocab_offset, config.vocab_offset + config.vocab_size)
    if config.end_id not in hard or config.padding_id not in hard:
        raise ValueError(
            f"end of audio {config.end_id} and padding {config.padding_id} are not both audio tokens ({hard})"
        )
    return config


def _per_layer(value: Any, n: int, name: str) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * n
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} entries for {n} layers")
    return values


def _parse(text: dict[str, Any], eos: Any) -> TextConfig:
    n = int(text["num_hidden_layers"])
    types = text.get("layer_types") or ["full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(n)]
    types = _per_layer(types, n, "layer_types")
    if unknown := set(types) - {"sliding_attention", "full_attention"}:
        raise ValueError(f"unknown layer types {sorted(unknown)}")
    sparsity = text.get("activation_sparsity_pattern")
    if sparsity is None:
        sparsity = [0.95] * (10 if n > 10 else 0) + [0.0] * (n - 10 if n > 10 else n)
    rope = text.get("rope_parameters") or {}

    def theta(kind: str, flat: str, default: float) -> float:
        entry = rope.get(kind) or {}
        if entry.get("rope_type", "default") != "default" or text.get("rope_scaling"):
            raise ValueError(f"scaled RoPE on {kind} is not part of Gemma 3n")
        return float(entry.get("rope_theta", text.get(flat, default)))

    config = TextConfig(
        hidden_size=int(text["hidden_size"]),
        num_layers=n,
        num_heads=int(text["num_attention_heads"]),
        num_kv_heads=int(text["num_key_value_heads"]),
        head_dim=int(text["head_dim"]),
        ffn_dims=tuple(int(x) for x in _per_layer(text["intermediate_size"], n, "intermediate_size")),
        layer_types=tuple(types),
        sparsity=tuple(float(x) for x in _per_layer(sparsity, n, "activation_sparsity_pattern")),
        num_kv_shared_layers=int(text["num_kv_shared_layers"]),
        sliding_window=int(text["sliding_window"]),
        vocab_size=int(text["vocab_size"]),
        ple_vocab_size=int(text["vocab_size_per_layer_input"]),
        ple_dim=int(text["hidden_size_per_layer_input"]),
        laurel_rank=int(text["laurel_rank"]),
        altup_num_inputs=int(text.get("altup_num_inputs", 4)),
        altup_active_idx=int(text.get("altup_active_idx", 0)),
        altup_correct_scale=bool(text.get("altup_correct_scale", True)),
        rms_norm_eps=float(text.get("rms_norm_eps", 1e-6)),
        rope_theta_full=theta("full_attention", "rope_theta", 1e6),
        rope_theta_sliding=theta("sliding_attention", "rope_local_base_freq", 1e4),
        final_logit_softcap=float(text.get("final_logit_softcapping", 30.0)),
        max_context=int(text.get("max_position_embeddings", 32768)),
        bos_id=int(text.get("bos_token_id", 2)),
        pad_id=int(text.get("pad_token_id", 0)),
        eos_ids=tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos if eos is not None else 1),),
    )
    _check(config, text)
    return config


def _check(config: TextConfig, text: dict[str, Any]) -> None:
    owners = {config.layer_types[i] for i in range(config.num_kv_layers)}
    if not 0 <= config.num_kv_shared_layers < config.num_layers or owners != set(config.layer_types):
        raise ValueError(
            f"num_kv_shared_layers {config.num_kv_shared_layers} of {config.num_layers} leaves no KV owner "
            f"for {sorted(set(config.layer_types) - owners)}"
        )
    if config.num_heads % config.num_kv_heads:
        raise ValueError(f"{config.num_heads} heads cannot share {config.num_kv_heads} KV heads evenly")
    if any(not 0.0 <= s < 1.0 for s in config.sparsity):
        raise ValueError("activation sparsity must lie in [0, 1)")
    if text.get("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise ValueError(f"hidden_activation {text['hidden_activation']!r}, expected gelu_pytorch_tanh")
    if text.get("attention_bias"):
        raise ValueError("attention_bias is not part of Gemma 3n")
    if text.get("tie_word_embeddings") is False:
        raise ValueError("untied embeddings are not part of Gemma 3n")
    if not 0 <= config.altup_active_idx < config.altup_num_inputs:
        raise ValueError(f"altup_active_idx {config.altup_active_idx} of {config.altup_num_inputs} streams")
