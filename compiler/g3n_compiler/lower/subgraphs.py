"""The parts in which a model is lowered."""

from __future__ import annotations

from typing import Literal

from g3n_compiler.models.gemma3n.tower_config import Tower

Runtime = str
"""A key of :data:`g3n_compiler.lower.registry.BACKENDS`."""
Subgraph = Literal[
    "core",
    "token_embedding",
    "per_layer_embedding",
    "vision_encoder",
    "vision_adapter",
    "audio_encoder",
    "audio_adapter",
    "end_of_audio",
]
TOWER_OF: dict[Subgraph, Tower] = {
    "vision_encoder": "vision",
    "vision_adapter": "vision",
    "audio_encoder": "audio",
    "audio_adapter": "audio",
    "end_of_audio": "audio",
}
"""The tower that a subgraph belongs to: its parts are loaded together, with the first image or sound."""
