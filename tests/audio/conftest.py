"""Random audio towers, as ``transformers`` has them and as ours reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from g3n_compiler.checkpoint.fields import read_json
from g3n_compiler.models.gemma3n.audio import AudioEncoder
from g3n_compiler.models.gemma3n.audio_weights import AudioReader, audio_embedder_weights, audio_weights
from g3n_compiler.models.gemma3n.soft_tokens import Embedder
from g3n_compiler.models.gemma3n.tower_config import AudioConfig, load_audio_config
from g3n_compiler.models.weights import TensorWeights, WeightSpec

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "conf_num_hidden_layers": 2,
    "conf_num_attention_heads": 4,
    "sscp_conv_channel_size": [16, 8],
}


@dataclass(frozen=True)
class AudioTower:
    """A tower and its embedder, and the tensors of both by the names that a checkpoint gives them."""

    config: AudioConfig
    tower: Any
    embedder: Any
    tensors: dict[str, Tensor]

    @property
    def specs(self) -> dict[str, WeightSpec]:
        return audio_weights(self.config) | audio_embedder_weights(self.config)

    def read(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        value = self.tensors[spec.tensor]
        return value if rows is None else value[rows[0] : rows[1]]

    def encoder(self) -> AudioEncoder:
        reader = AudioReader(self.config, self.read)
        return AudioEncoder(self.config, TensorWeights({n: reader(s) for n, s in self.specs.items()}))

    def embed(self, features: Tensor) -> Tensor:
        """Our embedder's soft tokens."""
        return Embedder(self.config.embedder, "audio", self.encoder().weights).soft(features)

    @torch.no_grad()
    def reference(self, mel: Tensor, mask: Tensor) -> Tensor:
        """The reference's features ``[1, N, hidden]``."""
        return self.tower(mel, mask == 0, return_dict=True).last_hidden_state


def make_audio_tower(directory: Path, model: Mapping[str, Any] | None = None, **audio: Any) -> AudioTower:
    """A random tower whose norms and scales are far from their trivial init; ``config.json`` goes to ``directory``.

    ``model`` has fields of the whole model's config, ``audio`` those of the tower's.
    """
    from transformers import Gemma3nConfig
    from transformers.models.gemma3n import modeling_gemma3n as gemma3n

    torch.manual_seed(0)
    config = Gemma3nConfig(audio_config={**SMALL, **audio}, **(model or {}))
    config.save_pretrained(directory)
    tower = gemma3n.Gemma3nAudioEncoder._from_config(config.audio_config, dtype=torch.float32).eval()
    embedder = gemma3n.Gemma3nMultimodalEmbedder(config.audio_config, config.text_config).float().eval()
    with torch.no_grad():
        for parameter in (*tower.parameters(), *embedder.parameters()):
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
    tensors = {f"audio_tower.{k}": v for k, v in tower.state_dict().items()}
    tensors |= {f"embed_audio.{k}": v for k, v in embedder.state_dict().items()}
    return AudioTower(load_audio_config(read_json(directory / "config.json")), tower, embedder, tensors)


def random_mel(frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-mel frames ``[1, frames, 128]`` as loud and quiet as speech, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, 128, generator=generator) * 2 - 4, torch.ones(1, frames)


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> AudioTower:
    return make_audio_tower(tmp_path_factory.mktemp("tower"))


@pytest.fixture(scope="session")
def true_tower(tmp_path_factory: pytest.TempPathFactory) -> AudioTower:
    """One layer of the true architecture."""
    shape = {"hidden_size": 1536, "conf_num_attention_heads": 8, "sscp_conv_channel_size": [128, 32]}
    return make_audio_tower(tmp_path_factory.mktemp("true_ears"), conf_num_hidden_layers=1, **shape)
