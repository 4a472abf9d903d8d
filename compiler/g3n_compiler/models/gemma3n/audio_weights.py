"""The audio tower's weights, including those that are computed once from the checkpoint's.

Names are the checkpoint's, relative to its towers. Three kinds are not stored as the graph reads them:

* convolution filters are channels-last, ``[out, height, width, in]``, or ``[1, height, width, out]`` if each channel
  reads only one;
* ``relative_positions`` is the sinusoidal table after its projection, so that the graph needs neither the projection
  nor its product;
* ``query_scale`` is the learnt scale of each dimension after its softplus, multiplied by the constant scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.models.gemma3n.soft_tokens import embed_hard_tokens, embedder_weights
from g3n_compiler.models.gemma3n.tower_config import AudioConfig
from g3n_compiler.models.weights import Read, Role, WeightSpec

TOWER = "audio_tower."
EMBEDDER = "embed_audio."
POSITIONS = "relative_positions"
QUERY_SCALE = "query_scale"
PADDING = EMBEDDER + "padding"
LONGEST_TIMESCALE = 1e4


def audio_weights(config: AudioConfig) -> dict[str, WeightSpec]:
    """Every weight that the encoder's graph reads, in the order of use, with the shapes that the graph sees."""
    c, d = config, config.hidden_size
    specs: dict[str, WeightSpec] = {}

    def add(name: str, shape: tuple[int, ...], role: Role = "float", tensor: str = "") -> None:
        specs[name] = WeightSpec(name, shape, role, tensor or name + ".weight")

    channels = (1, *c.conv_channels)
    for i in range(2):
        p = f"{TOWER}subsample_conv_projection.conv_{i}."
        add(p + "conv", (1, 3, 3, channels[1]) if i == 0 else (channels[2], 3, 3, channels[1]))
        add(p + "norm", (channels[i + 1],))
    add(f"{TOWER}subsample_conv_projection.input_proj_linear", (d, c.bins[2] * channels[2]), "audio")
    for i in range(c.num_layers):
        p = f"{TOWER}conformer.{i}."
        _add_ffw(add, p + "ffw_layer_start.", d)
        a = p + "attention.attn."
        add(p + "attention.pre_attn_norm", (d,))
        for part in "qkv":
            add(f"{a}{part}_proj", (d, d), "audio")
        add(a + QUERY_SCALE, (c.head_dim,), tensor=a + "per_dim_scale")
        positions = (c.num_heads, c.past + 1, c.head_dim)
        add(a + POSITIONS, positions, tensor=a + "relative_position_embedding.pos_proj.weight")
        add(p + "attention.post", (d, d), "audio")
        add(p + "attention.post_norm", (d,))
        add(p + "lconv1d.pre_layer_norm", (d,))
        add(p + "lconv1d.linear_start", (2 * d, d), "audio")
        add(p + "lconv1d.depthwise_conv1d", (1, 1, c.conv_kernel, d))
        add(p + "lconv1d.conv_norm", (d,))
        add(p + "lconv1d.linear_end", (d, d), "audio")
        _add_ffw(add, p + "ffw_layer_end.", d)
        add(p + "norm", (d,))
    return specs


def audio_embedder_weights(config: AudioConfig) -> dict[str, WeightSpec]:
    """The weights that project soft and hard audio tokens into the text model's space."""
    return embedder_weights(config.embedder, "audio", config.text_hidden_size)


def audio_tensors(config: AudioConfig) -> dict[str, WeightSpec]:
    """Every tensor of a checkpoint that makes up the tower, with its stored shape."""
    return {n: checkpoint_spec(config, s) for n, s in (audio_weights(config) | audio_embedder_weights(config)).items()}


def padding_weight(config: AudioConfig) -> WeightSpec:
    """What pads a clip to the longest clip's number of soft tokens: the embedding of the vocabulary's last token, as it
    enters the text model.
    """
    return WeightSpec(PADDING, (config.text_hidden_size,), "float", EMBEDDER + "embedding.weight")


def checkpoint_spec(config: AudioConfig, spec: WeightSpec) -> WeightSpec:
    """``spec`` as the checkpoint holds it, with its tensor's own shape."""
    shape = spec.shape
    if spec.name.endswith(POSITIONS):
        shape = (config.hidden_size, config.hidden_size)
    elif spec.name.endswith("conv_1.conv"):
        shape = (shape[0], shape[3], *shape[1:3])
    elif spec.name.endswith("conv_0.conv"):
        shape = (shape[3], 1, *shape[1:3])
    elif spec.name.endswith("depthwise_conv1d"):
        shape = (shape[3], 1, shape[2])
    return WeightSpec(spec.name, shape, spec.role, spec.tensor)


class AudioReader:
    """Reads the weights of :func:`audio_weights` and :func:`audio_embedder_weights`, and computes those that are not
    stored.
    """

    def __init__(self, config: AudioConfig, read: Read) -> None:
        self._config, self._read = config, read

    def __call__(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        if spec.name == PADDING:
            return self.hard_token_row(self._config.padding_id)
        source = checkpoint_spec(self._config, spec)
        if source.shape == spec.shape and not spec.name.endswith(QUERY_SCALE):
            return self._read(spec, rows)
        value = self._derive(spec, self._read(source))
        return value if rows is None else value[rows[0] : rows[1]]

    def hard_token_row(self, token: int) -> Tensor:
        """The output of ``embed_audio`` for an audio token's id: ``[text_hidden]`` float32."""
        c = self._config
        rows = embed_hard_tokens(c.embedder, "audio", self._read, c.text_hidden_size)
        return rows[token - c.embedder.vocab_offset]

    def _derive(self, spec: WeightSpec, value: Tensor) -> Tensor:
        c = self._config
        if spec.name.endswith(QUERY_SCALE):
            return F.softplus(value) * (c.head_dim**-0.5 / math.log(2))  # log 2 is softplus(0)
        if spec.name.endswith(POSITIONS):
            table = F.linear(sinusoids(c), value)
            return table.view(c.past + 1, c.num_heads, c.head_dim).transpose(0, 1).contiguous()
        if spec.name.endswith("conv_1.conv"):
            return value.permute(0, 2, 3, 1).contiguous()
        return value.movedim(0, -1).reshape(spec.shape).contiguous()


def sinusoids(config: AudioConfig) -> Tensor:
    """Sinusoidal embeddings ``[past + 1, hidden]`` of the distances from ``past`` down to 0."""
    half = config.hidden_size // 2
    step = math.log(LONGEST_TIMESCALE) / max(half - 1, 1)
    inverse = torch.exp(torch.arange(half) * -step)
    angle = torch.arange(config.past, -1, -1).float().view(-1, 1) * inverse.view(1, -1)
    return torch.cat((angle.sin(), angle.cos()), -1)


def _add_ffw(add: Callable[..., None], prefix: str, width: int) -> None:
    add(prefix + "pre_layer_norm", (width,))
    add(prefix + "ffw_layer_1", (4 * width, width), "audio")
    add(prefix + "ffw_layer_2", (width, 4 * width), "audio")
    add(prefix + "post_layer_norm", (width,))
