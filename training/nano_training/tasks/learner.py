"""The text model, its loss on rows of examples, and the state of its training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from g3n_compiler.nano import SKIPPABLE
from nano_training import tokenizer
from nano_training.config import FFN_WIDTH
from nano_training.elastic import EMBEDDING, FULL, HALF, SMALLEST, uniform
from nano_training.forward import Slice
from nano_training.loss import SOFTCAP, softcapped_cross_entropy
from nano_training.replay import Replay
from nano_training.senses import Senses
from nano_training.soft_forward import SoftDecoder
from nano_training.tasks.encoding import PLACEHOLDERS, Rows
from nano_training.tasks.media import Galleries
from nano_training.train import make_optimizer

_CLIP = 1.0
_MEASURED_EVERY = 10
_SLICES: tuple[tuple[float, Slice], ...] = (
    (0.64, FULL),
    (0.14, HALF),
    (0.16, SMALLEST),
    (0.06, uniform(FFN_WIDTH, SKIPPABLE)),
)


@dataclass
class Progress:
    """Where a resumed run goes on; ``seconds`` is the time spent so far."""

    step: int = 0
    seconds: float = 0.0


class Learner:
    """Trains the weights of the text model of ``senses`` in place."""

    def __init__(self, senses: Senses, galleries: Galleries, stream: Tensor, decay: float, compiled: bool) -> None:
        senses.model.requires_grad_(False)
        senses.model.model.language_model.requires_grad_(True)
        self._galleries = galleries
        self.weights = {name: w for name, w in senses.text.items() if not _is_dead(name, senses)}
        config = senses.model.config.text_config
        self._plain = SoftDecoder(config)
        self._training = SoftDecoder(config, compiled) if compiled else self._plain
        self._replay = Replay(config, self.weights, stream, compiled)
        self._optimizer = make_optimizer(self.weights, decay)
        self._ends = {
            tokenizer.VISION_ID: _hard(senses.model.model.embed_vision, tokenizer.VISION_ID),
            tokenizer.AUDIO_ID: _hard(senses.model.model.embed_audio, tokenizer.AUDIO_ID),
        }

    def step(self, rows: Rows | None, rate: float, number: int) -> dict[str, float]:
        """One update; returns losses, and now and then the share of examples of each task that were right."""
        rng = Random(f"slice/{number}")
        found: dict[str, float] = {}
        if rows is None:
            loss, _ = self._replay.text(rng, 0.0)
            found["loss, old text"] = loss.item()
        else:
            part = rng.choices([s for _, s in _SLICES], [w for w, _ in _SLICES])[0]
            hidden = self.hidden(rows, part, self._training)
            wanted = rows.targets.flatten()
            loss = softcapped_cross_entropy(hidden[wanted >= 0], self.weights[EMBEDDING], wanted[wanted >= 0])
            found["loss, tasks"] = loss.item()
            if number % _MEASURED_EVERY == 0 and part is FULL:
                found |= share_right(rows, self._logits(hidden.detach()))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.weights.values(), _CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return found

    def right(self, rows: Rows) -> dict[str, float]:
        """For each task of ``rows``, the share of examples whose last answer is right, given those before it."""
        with torch.no_grad():
            return share_right(rows, self._logits(self.hidden(rows, FULL, self._plain)))

    def hidden(self, rows: Rows, part: Slice, decoder: SoftDecoder) -> Tensor:
        """Final hidden states (B * S, D) at the places of ``rows``."""
        return decoder.answer(
            self.weights, self._embeddings(rows), rows.tokens, rows.places, visible=rows.visible, part=part
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        raw = F.linear(hidden, self.weights[EMBEDDING])
        return torch.tanh(raw / SOFTCAP) * SOFTCAP

    def _embeddings(self, rows: Rows) -> Tensor:
        table = self.weights[EMBEDDING]
        made = F.embedding(rows.tokens, table) * table.shape[1] ** 0.5
        for end, vector in self._ends.items():
            made = torch.where((rows.tokens == end)[..., None], vector, made)
        is_soft = torch.isin(rows.tokens, torch.tensor(PLACEHOLDERS))
        if not is_soft.any():
            return made
        media = [m for row in rows.examples for encoded in row for m in encoded.example.media]
        soft = torch.cat([self._galleries[kind].soft[at].float() for kind, at in media])
        flat = made.flatten(0, 1)
        return flat.index_put((is_soft.flatten().nonzero()[:, 0],), soft).unflatten(0, rows.tokens.shape)

    def save(self, path: Path, progress: Progress) -> None:
        state = {
            "weights": {name: w.detach() for name, w in self.weights.items()},
            "optimizer": self._optimizer.state_dict(),
            "progress": vars(progress),
        }
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def restore(self, path: Path) -> Progress:
        """Go on from what :meth:`save` wrote."""
        state = torch.load(path, weights_only=True)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])


def share_right(rows: Rows, logits: Tensor) -> dict[str, float]:
    """For each task, the share of examples whose last answer is what greedy decoding gives."""
    hits = (logits.argmax(-1).view(rows.targets.shape) == rows.targets).tolist()
    counts: dict[str, list[bool]] = {}
    for r, row in enumerate(rows.examples):
        slot = 0
        for encoded in row:
            begin, end = encoded.spans[-1]
            slot += encoded.answers
            counts.setdefault(encoded.example.task, []).append(all(hits[r][slot - (end - begin) : slot]))
    return {task: sum(found) / len(found) for task, found in counts.items()}


def _is_dead(name: str, senses: Senses) -> bool:
    """Whether it is one of the k/v weights of KV-shared layers, which nothing reads."""
    config = senses.model.config.text_config
    first = config.num_hidden_layers - config.num_kv_shared_layers
    parts = name.split(".")
    return "layers" in parts and int(parts[2]) >= first and any(p in name for p in ("k_proj", "v_proj", "k_norm"))


def _hard(embedder: Callable[..., Tensor], token: int) -> Tensor:
    with torch.no_grad():
        return embedder(input_ids=torch.tensor([token]))[0].detach()
