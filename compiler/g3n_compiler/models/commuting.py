"""Where a factor or a rotation can move from one weight of a model to another without changing what it computes.

A family lists the places (:meth:`g3n_compiler.models.family.Family.channels` and ``turns``, and ``channels`` of its
towers); :mod:`g3n_compiler.rewrite` decides what is moved. Tensors are named as in a whole checkpoint, within the text
model or beginning with the tower's name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Producer:
    """A tensor whose rows (or, of a table, columns) make the channels: each is divided by the channel's factor.

    Args:
        input_gain: the gain on what a matrix reads, from which weights alone give the size of its output.
        tables: how often the channels are repeated side by side in each row of a table; 0 if the rows are meant.
    """

    tensor: str
    input_gain: str | None = None
    tables: int = 0


@dataclass(frozen=True)
class Channels:
    """Channels between producers and the matrices that read them, whose columns are multiplied by the factors.

    Nothing between them may be anything but a product with what does not depend on the channel's size.

    Args:
        followers: tensors that are not rounded and read the channels too, such as a filter for each of them; their rows
            are multiplied by the factors.
    """

    name: str
    producers: tuple[Producer, ...]
    consumers: tuple[str, ...]
    followers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Turn:
    """Values of attention, which a rotation within each KV head turns, and the matrices that turn them back.

    ``values`` has rows ``[kv_heads * head_dim]``, each of ``outputs`` has columns ``[heads * head_dim]``.
    """

    values: str
    outputs: tuple[str, ...]
    kv_heads: int
    head_dim: int
