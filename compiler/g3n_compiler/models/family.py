"""What a family of models tells the compiler: its configuration, weights, slices, arithmetic and references.

A family is a folder beside this file and one line in :mod:`g3n_compiler.models.registry`. Checkpoint, slicing,
quantization and verification use only what is declared here, so the next family needs no edit in them. Lowering a
family also needs its decoder in the forms that delegates accept; see ``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from g3n_compiler.checkpoint.tensor_names import Naming
from g3n_compiler.models.commuting import Channels, Turn
from g3n_compiler.models.published import PublishedModels
from g3n_compiler.models.shape import LayerType, TextShape
from g3n_compiler.models.weights import Weights, WeightSpec

if TYPE_CHECKING:
    from g3n_compiler.models.gemma3n.soft_tokens import HardTokenRows
    from g3n_compiler.models.gemma3n.tower_config import AudioConfig, VisionConfig
    from g3n_compiler.source import Source

Ranges = tuple[tuple[int, int], ...]


class Cut(NamedTuple):
    """The parts of a tensor's rows and columns that a slice keeps (``None``: all of them)."""

    rows: Ranges | None = None
    columns: Ranges | None = None


Rope = dict[LayerType, tuple[Tensor, Tensor]]
"""cos and sin ``[1, T, 1, head_dim]`` of each attention type."""
Streams = Any
"""Residual streams: a tuple of tensors ``[1, T, hidden]``, or whatever form a backend's decoder keeps them in."""


class State(NamedTuple):
    """What flows between layers: the residual streams, and the chunk's inputs, which stay the same."""

    streams: Streams
    embeddings: Tensor
    """``[1, T, hidden]``."""
    ple: Tensor
    """``[1, T, layers, ple_dim]``."""
    rope: Rope

    def at(self, positions: slice | Tensor) -> State:
        """The state of some of the chunk's positions; only for streams that are a tuple of tensors."""
        streams = tuple(stream[:, positions] for stream in self.streams)
        rope = {kind: (cos[:, positions], sin[:, positions]) for kind, (cos, sin) in self.rope.items()}
        return State(streams, self.embeddings[:, positions], self.ple[:, positions], rope)


class KVCache(Protocol):
    """Keys and values of the KV-owning layers."""

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Add this chunk's ``key`` and ``value`` ``[1, T, kv_heads, head_dim]`` to owning ``layer``."""

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Attention of ``query [1, T, heads, head_dim]`` over ``layer``'s cache -> ``[1, T, heads * head_dim]``."""


class Decoder(Protocol):
    """A family's decoder, as the reference runs it."""

    def decode(self, embeddings: Tensor, ple: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Run all layers over a chunk -> logits ``[1, T, vocab]``.

        Args:
            embeddings: ``[1, T, hidden]`` float, scaled token embeddings or soft tokens.
            ple: ``[1, T, layers, ple_dim]`` float, scaled per-layer embedding rows.
            positions: ``[T]`` int, position of each token.
        """

    def begin(self, embeddings: Tensor, ple: Tensor, positions: Tensor) -> State:
        """The input of the first layer."""

    def layer(self, i: int, state: State, cache: KVCache, wanted: slice | Tensor | None = None) -> State:
        """The output of layer ``i``.

        Args:
            wanted: positions to continue with; the layer still computes keys and values for the whole chunk. Used from
                the last KV owner on, above which no position reads another one.
        """

    def logits(self, streams: Streams) -> Tensor:
        """Logits ``[1, T, vocab]`` from the last layer's output."""


class TowerTensors(Protocol):
    """One tower of a family: the tensors that it has, and those that are compiled."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Prefixes of its tensors' names, after one of the checkpoint's prefixes: its encoder's, then the others."""

    def weights(self, source: Source) -> Mapping[str, WeightSpec]:
        """Every tensor that the tower of ``source`` needs."""

    def channels(self, source: Source) -> Sequence[Channels]:
        """Where a factor can be moved from one weight of the tower of ``source`` to another."""


class Family(Protocol):
    """One family of models."""

    @property
    def title(self) -> str:
        """The name used in sentences."""

    @property
    def model_types(self) -> Sequence[str]:
        """Values of ``model_type`` in ``config.json``."""

    def naming(self, config: Mapping[str, Any]) -> Naming:
        """How the tensors of a checkpoint with this ``config.json`` can be called."""

    @property
    def towers(self) -> Mapping[str, TowerTensors]:
        """The towers that a checkpoint can have, by modality."""

    @property
    def published(self) -> PublishedModels:
        """The family's models on the hub, and their published slices."""

    def text_shape(self, config: Mapping[str, Any], generation: Mapping[str, Any] | None) -> TextShape:
        """The decoder's shape from ``config.json`` and, for the stop ids, ``generation_config.json``.

        Raises:
            WrongModel: they do not describe a decoder of this family.
        """

    def sliced_config(self, config: Mapping[str, Any], shape: TextShape) -> dict[str, Any]:
        """The ``config.json`` of a checkpoint that holds only the slice of ``shape``."""

    def text_weights(self, shape: TextShape) -> dict[str, WeightSpec]:
        """Every weight of the decoder, except the embedding tables, in the order of use."""

    def dead_weights(self, shape: TextShape) -> dict[str, str]:
        """Tensors of a checkpoint (names within the text model) that inference never reads, each with the reason."""

    def core_parameters(self, shape: TextShape) -> int:
        """Parameters that a device must hold, as the family's publisher counts them."""

    def cut(self, shape: TextShape, kept: Sequence[int], tensor: str) -> Cut:
        """The part of a tensor that a slice keeps.

        Args:
            shape: the slice's own shape.
            kept: the layers of the whole model that the slice keeps, ascending.
            tensor: name within the text model, with its layer numbered as in the slice.
        """

    def channels(self, shape: TextShape) -> Sequence[Channels]:
        """Where a factor can be moved from one weight of the decoder to another.

        Args:
            shape: that of the whole checkpoint.
        """

    def turns(self, shape: TextShape) -> Sequence[Turn]:
        """Where values of attention can be turned."""

    def vision(self, source: Source) -> VisionConfig | None:
        """The vision tower for which ``source`` has tensors.

        Raises:
            WrongModel: the family does not define such a tower.
        """

    def audio(self, source: Source) -> AudioConfig | None:
        """The audio tower for which ``source`` has tensors.

        Raises:
            WrongModel: the family does not define such a tower.
        """

    def hard_token_rows(self, source: Source) -> HardTokenRows | None:
        """Rows of the token table that the towers among ``source.modalities`` own, if the family has such rows."""

    def decoder(self, shape: TextShape, weights: Weights) -> Decoder:
        """The decoder in eager PyTorch."""

    def load_transformers(self, source: Source) -> Any:
        """The same model in ``transformers``, float32, eager attention, loaded through ``source``."""
