"""The methods of a single program, as ExecuTorch's stock ``MultimodalRunner`` and react-native-executorch call them.

Both are fed with the delegates of the bundle's own programs. ``N`` counts the soft tokens and the row that ends a
picture or a sound; ``width`` is that of ``text_decoder``'s rows, see
:func:`g3n_compiler.lower.executorch.methods.row_width`.

``stock`` (``extension/llm/runner`` of executorch 1.5.1): one tensor goes from each encoder to the decoder, so an
encoder also gives the per-layer embeddings of its soft tokens, which are those of id 0.

================== ============================================ =====================
``vision_encoder`` ``image [1, 3, S, S]`` float in 0..1         rows ``[1, N, width]``
``audio_encoder``  ``sound [1, 1, n]`` float, 16 kHz            rows ``[1, N, width]``
================== ============================================ =====================

``rows`` (``common/runner`` of react-native-executorch 0.10): per-layer embeddings travel beside the others; the app
looks id 0 up in the places of soft tokens.

=================== ========================================================= ==========================
``token_embedding`` tokens ``[1, T]``                                         ``[1, T, hidden]``,
                                                                              ``[1, T, layers, ple_dim]``
``text_decoder``    both, positions ``[T]``                                   logits ``[1, 1, vocab]``
``vision_encoder``  ``image [1, 3, S, S]`` float in 0..255                    ``[1, N, hidden]``
``audio_encoder``   ``sound [1, n]`` float, 16 kHz; how many of them it has   ``[1, N, hidden]``
=================== ========================================================= ==========================

``forward`` is there too, as in the bundle's own program: the app calls it where it expects text alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.lower.executorch.audio import EncodeClip
from g3n_compiler.lower.executorch.methods import ChunkDecoder, Tables
from g3n_compiler.lower.executorch.vision import EncodeImage
from g3n_runtime.media.mel import HOP, NEEDED, PAD_TO


class WithPle(nn.Module):
    """Appends the per-layer embeddings of id 0 to the soft tokens of ``encoder``.

    Args:
        ple: ``[layers * ple_dim]``.
    """

    def __init__(self, encoder: nn.Module, ple: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("soft_ple", ple.view(1, 1, -1).clone())

    def forward(self, media: Tensor) -> Tensor:
        soft = self.encoder(media)
        ple = self.get_buffer("soft_ple")
        return torch.cat((soft, ple.expand(1, soft.shape[1], ple.shape[-1])), -1)


class Picture(nn.Module):
    """``image [1, 3, S, S]`` -> soft tokens and the end-of-image row ``[1, N, hidden]``; ``white`` is its brightest."""

    white: Tensor | None

    def __init__(self, encoder: EncodeImage, white: float) -> None:
        super().__init__()
        self.encoder = encoder
        # Of three values: by a single one ExecuTorch multiplies with the reciprocal, which rounds otherwise.
        self.register_buffer("white", None if white == 1 else torch.full((1, 3, 1, 1), white))

    def forward(self, image: Tensor) -> Tensor:
        if self.white is not None:
            image = image / self.white
        return self.encoder(image.permute(0, 2, 3, 1).contiguous())[0]


class Sound(nn.Module):
    """``sound [..., n]`` of up to the longest clip -> its soft tokens and the end-of-audio row ``[1, N, hidden]``.

    Equal to :func:`g3n_runtime.media.mel.clip_input` followed by the encoder.

    Args:
        hops: those of the longest clip.
        end: ``[hidden]``.
    """

    def __init__(self, encoder: EncodeClip, hops: int, end: Tensor) -> None:
        super().__init__()
        self.encoder, self.hops = encoder, hops
        self.register_buffer("end", end.view(1, 1, -1).clone())
        self.register_buffer("lasts", _last_samples(hops))

    def forward(self, sound: Tensor, samples: Tensor | None = None) -> Tensor:
        flat = sound.reshape(1, -1)
        given = flat.shape[1]
        has = torch.ones_like(flat)
        if samples is not None:
            has = (torch.arange(given).view(1, -1) < samples).to(flat.dtype)
        rest = self.hops * HOP - given
        heard = F.pad(flat * has, (0, rest)).view(1, self.hops, HOP)
        known = torch.index_select(F.pad(has, (0, rest)), 1, self.get_buffer("lasts"))
        return torch.cat((self.encoder(heard * known.unsqueeze(-1), known)[0], self.get_buffer("end")), 1)


def _last_samples(hops: int) -> Tensor:
    """``[hops]``: the sample without which a sound does not have the hop.

    ``frame_count`` fills a sound up to a multiple of 128 samples, and a frame takes 513, so hop ``i`` is one of the
    sound's own if the filled sound reaches past sample ``160 i + 32``.
    """
    reached = torch.arange(hops) * HOP + NEEDED % HOP - 1
    return reached // PAD_TO * PAD_TO


class SplitEmbedding(nn.Module):
    """``token_embedding`` of the form ``rows``."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        c = self.tables.config
        return self.tables.embeddings(tokens), self.tables.ple(tokens).view(1, -1, c.num_layers, c.ple_dim)


class SplitDecoder(nn.Module):
    """``text_decoder`` of the form ``rows``."""

    def __init__(self, decoder: ChunkDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, embeddings: Tensor, ple: Tensor, input_pos: Tensor) -> Tensor:
        c = self.decoder.config
        return self.decoder(
            embeddings.view(-1, 1, c.hidden_size), ple.reshape(1, -1, c.num_layers * c.ple_dim), input_pos
        )
