"""Where factors commute in Gemma 3n's towers; see :class:`.audio.AudioEncoder` and :class:`.vision.VisionEncoder`.

As in the decoder, a factor moves from a norm's gain to the matrices that read the norm, where nothing else does.
"""

from __future__ import annotations

from g3n_compiler.models.commuting import Channels, Producer
from g3n_compiler.models.gemma3n.audio_weights import TOWER as AUDIO
from g3n_compiler.models.gemma3n.tower_config import AudioConfig, Tower, VisionConfig
from g3n_compiler.models.gemma3n.vision_layout import Attention, InvertedResidual, read_layout
from g3n_compiler.models.gemma3n.vision_weights import TOWER as VISION


def audio_channels(config: AudioConfig) -> list[Channels]:
    """The norms before the feed-forward layers, the attention and the convolution; the values of attention, which are
    weighted and summed before they are read; and the embedder's norms.
    """
    found = []
    for i in range(config.num_layers):
        p = f"{AUDIO}conformer.{i}."
        norm, a = p + "attention.pre_attn_norm.weight", p + "attention.attn."
        value = a + "v_proj.weight"
        found += [
            *(_norm(f"{p}{part}pre_layer_norm.weight", f"{p}{part}ffw_layer_1.weight") for part in _FEED_FORWARDS),
            _norm(norm, a + "q_proj.weight", a + "k_proj.weight", value),
            Channels(value, (Producer(value, norm),), (p + "attention.post.weight",)),
            _norm(p + "lconv1d.pre_layer_norm.weight", p + "lconv1d.linear_start.weight"),
        ]
    return [*found, _embedder("audio")]


def vision_channels(config: VisionConfig) -> list[Channels]:
    """The norms after which there is no activation: in front of an expansion, of an attention, of its keys and values
    where they come from a smaller map, and the embedder's.
    """
    layout = read_layout(config)
    found = [c for stage in layout.stages for block in stage for c in _block_channels(block)]
    return [*found, *_block_channels(layout.fusion), _embedder("vision")]


_FEED_FORWARDS = ("ffw_layer_start.", "ffw_layer_end.")


def _block_channels(block: object) -> list[Channels]:
    if isinstance(block, InvertedResidual) and block.start is not None:
        return [_norm(f"{VISION}{block.name}.dw_start.bn.weight", f"{VISION}{block.expand.name}.weight")]
    if not isinstance(block, Attention):
        return []
    found, readers, followers = list[Channels](), [block.query], list[str]()
    for kind, down, projection in (("key", block.key_down, block.key), ("value", block.value_down, block.value)):
        if down is None:
            readers.append(projection)
        elif down.depthwise:
            followers.append(f"{VISION}{down.name}.weight")
            found.append(_norm(f"{VISION}{block.name}.attn.{kind}.norm.weight", f"{VISION}{projection.name}.weight"))
        else:  # a filter over all channels, which is not among the places
            return found
    own = Producer(f"{VISION}{block.name}.norm.weight")
    matrices = tuple(f"{VISION}{reader.name}.weight" for reader in readers)
    return [Channels(own.tensor, (own,), matrices, tuple(followers)), *found]


def _norm(norm: str, *matrices: str) -> Channels:
    return Channels(norm, (Producer(norm),), matrices)


def _embedder(tower: Tower) -> Channels:
    """Soft tokens and hard ones have a norm each before the one projection."""
    p = f"embed_{tower}."
    norms = tuple(Producer(f"{p}{kind}_embedding_norm.weight") for kind in ("soft", "hard"))
    return Channels(p + "embedding_norm", norms, (p + "embedding_projection.weight",))
