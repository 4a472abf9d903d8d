"""nano with its towers for training: the library's towers, and the fast decoder over their soft tokens.

The layout of prompts is that of the library's processor (``Gemma3nProcessor``): 256 soft tokens per image, 188 per
sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import Gemma3nForConditionalGeneration

from nano_training import tokenizer
from nano_training.loss import SOFTCAP
from nano_training.soft_forward import SoftDecoder

Modality = Literal["image", "audio"]

SOFT_TOKENS: dict[Modality, int] = {"image": 256, "audio": 188}
_MARKS: dict[Modality, tuple[int, int, int]] = {
    "image": (tokenizer.BOI_ID, tokenizer.VISION_ID + 1, tokenizer.VISION_ID),
    "audio": (tokenizer.BOA_ID, tokenizer.AUDIO_ID + 1, tokenizer.AUDIO_ID),
}
_EMPTY = -100


@dataclass(frozen=True)
class Layout:
    """How a batch asks: the question, whether it precedes the soft tokens, and the newlines around them."""

    question: str
    first: bool = False
    spaced: bool = True


def random_layout(questions: Sequence[str], rng: Random) -> Layout:
    """Mostly the library's own form; engines differ in newlines and order, so sometimes one of theirs."""
    return Layout(rng.choice(list(questions)), rng.random() < 0.15, rng.random() < 0.8)


class Prompts:
    """Token ids of prompts and answers."""

    def __init__(self, tokenizer_json: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer up to its end of turn."""
        kept = list(ids)
        for stop in (tokenizer.END_OF_TURN_ID, tokenizer.EOS_ID):
            if stop in kept:
                kept = kept[: kept.index(stop)]
        return str(self._tokenizer.decode(kept)).strip()

    def prompt(self, layout: Layout, modality: Modality, soft: int) -> list[int]:
        """Ids up to the beginning of the answer, with ``soft`` placeholders."""
        begin, placeholder, end = _MARKS[modality]
        gap = "\n\n" if layout.spaced else ""
        before = f"{layout.question}{gap}" if layout.first else gap
        after = gap if layout.first else f"{gap}{layout.question}"
        return [
            tokenizer.BOS_ID,
            *self.encode(f"<start_of_turn>user\n{before}"),
            begin,
            *[placeholder] * soft,
            end,
            *self.encode(f"{after}<end_of_turn>\n<start_of_turn>model\n"),
        ]

    def rows(
        self, prompt: Sequence[int], answers: Sequence[str], room: int, length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ids (B, T) and targets (B, room): one target for each position from the prompt's last on, -100 after the
        answer.

        T is ``length``, or as short as possible; positions after the answer hold padding.
        """
        ids = torch.full((len(answers), length or len(prompt) + room - 1), tokenizer.PAD_ID)
        targets = torch.full((len(answers), room), _EMPTY)
        ids[:, : len(prompt)] = torch.tensor(prompt)
        for row, text in enumerate(answers):
            answer = torch.tensor([*self.encode(text), tokenizer.END_OF_TURN_ID][:room])
            targets[row, : len(answer)] = answer
            ids[row, len(prompt) : len(prompt) + len(answer)] = answer[: room - 1]
        return ids, targets


class Senses:
    """The whole model for training; ``compiled`` applies to the vision tower, which takes most of the time."""

    def __init__(self, model: Gemma3nForConditionalGeneration, compiled: bool = False) -> None:
        self.model, inner = model, model.model
        self._vision, self._audio = inner.embed_vision, inner.embed_audio
        timm_model = inner.vision_tower.timm_model
        self._timm = torch.compile(timm_model, dynamic=False) if compiled else timm_model
        self._ears = inner.audio_tower
        self.text = {f"model.{name}": weight for name, weight in inner.language_model.named_parameters()}
        self.decoder = SoftDecoder(model.config.text_config)

    def see(self, pixels: Tensor) -> Tensor:
        """Soft tokens (B, 256, D) for ``pixels`` (B, 3, side, side) in [0, 1].

        For fewer than 256 pixels per side it returns only the (side / 16)**2 tokens that the library would enlarge.
        """
        self.model.model.vision_tower.timm_model.msfa.output_resolution = (min(16, pixels.shape[-1] // 16),) * 2
        features = self._timm(pixels).flatten(2).transpose(1, 2)
        soft: Tensor = self._vision(inputs_embeds=features * features.shape[-1] ** 0.5)
        return soft

    def hear(self, mel: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Soft tokens (B, N, D) for log-mel frames ``mel`` (B, frames, 128), and which of them are sound (B, N)."""
        encoded = self._ears(mel, ~valid)
        return self._audio(inputs_embeds=encoded.last_hidden_state), ~encoded.audio_mel_mask

    def pad_sound(self, soft: Tensor, sounding: Tensor, count: int) -> Tensor:
        """``soft`` with the embedding of the last audio id wherever there is no sound, up to ``count`` tokens."""
        filler = self._audio(input_ids=torch.tensor([tokenizer.VOCAB_SIZE - 1]))[0]
        kept = torch.where(sounding[..., None], soft, filler)
        extra = filler.expand(len(soft), count - soft.shape[1], -1)
        return torch.cat((kept, extra), 1)

    def embeddings(self, ids: Tensor, soft: Tensor, modality: Modality) -> Tensor:
        """(B, T, D): scaled text rows, ``soft`` (B, N, D) at the placeholders, and the end mark from its embedder."""
        _, placeholder, end = _MARKS[modality]
        table = self.text["model.embed_tokens.weight"]
        text = F.embedding(ids, table) * table.shape[1] ** 0.5
        embedder = self._vision if modality == "image" else self._audio
        text = torch.where((ids == end)[..., None], embedder(input_ids=torch.tensor([end]))[0], text)
        begin = int((ids[0] == placeholder).int().argmax())
        return torch.cat((text[:, :begin], soft, text[:, begin + soft.shape[1] :]), 1)

    def logits(self, ids: Tensor, soft: Tensor, modality: Modality, start: int, room: int) -> Tensor:
        """(B, room, V), softcapped, for the positions from ``start`` on."""
        places = torch.arange(start, start + room).expand(len(ids), -1)
        hidden = self.decoder.answer(self.text, self.embeddings(ids, soft, modality), ids, places)
        raw = F.linear(hidden, self.text["model.embed_tokens.weight"])
        return (torch.tanh(raw / SOFTCAP) * SOFTCAP).unflatten(0, (len(ids), -1))

    def loss(self, ids: Tensor, targets: Tensor, soft: Tensor, modality: Modality, start: int) -> tuple[Tensor, float]:
        """Mean loss in nats of the answers, and the share of rows in which every target is the most likely token."""
        logits = self.logits(ids, soft, modality, start, targets.shape[1])
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_EMPTY)
        right = (logits.argmax(-1) == targets) | (targets == _EMPTY)
        return loss, right.all(1).float().mean().item()
