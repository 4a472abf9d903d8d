"""Our own loop over ``text_decoder``, for prompts in which soft tokens take the places of embedding rows.

The stock text runner takes ids only.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence

import numpy as np

from g3n_runtime.chat import Sampler
from g3n_runtime.conversation import Answer, Ended, limit_of
from g3n_runtime.executorch.media import SoftTokens
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
from g3n_runtime.executorch.tokenizer import PieceDecoder, Vocabulary
from g3n_runtime.sampling import draw


class RowLoop:
    """Prefill and decode over embedding rows, one conversation at a time."""

    def __init__(self, parts: ExecuTorchParts) -> None:
        self._model = ExecuTorchModel(parts, "text_decoder")
        self._vocabulary = Vocabulary(parts.tokenizer)
        self.context = self._model.context

    def count(self, prompt: Sequence[str | SoftTokens]) -> int:
        """Tokens of ``prompt``, the bos before it included."""
        return len(self._ids(prompt)[0])

    def answer(
        self, prompt: Sequence[str | SoftTokens], sampler: Sampler, max_new_tokens: int | None, room: int
    ) -> Answer:
        """What the model says to ``prompt``, which is read anew, a bos before it, and leaves ``room`` tokens."""
        return Answer(self._answer(prompt, sampler, *limit_of(max_new_tokens, room)))

    def _answer(
        self, prompt: Sequence[str | SoftTokens], sampler: Sampler, most: int, limit: Ended
    ) -> Generator[str, None, Ended]:
        rows = self.rows(prompt)
        generator = np.random.default_rng(sampler.seed)
        for begin in range(0, len(rows), self._model.chunk):
            logits = self._model.call_rows(rows[begin : begin + self._model.chunk], begin)[0][0, -1]
        text, position, ended = PieceDecoder(), len(rows), limit
        for last in (i == most - 1 for i in range(most)):
            token = draw(logits, sampler, generator)
            if token in self._model.stop_ids:
                ended = Ended.END_OF_TURN
                break
            if piece := text.feed(self._vocabulary.name(token)):
                yield piece
            if not last:
                logits = self._model.step([token], position)
                position += 1
        if piece := text.end():
            yield piece
        return ended

    def rows(self, prompt: Sequence[str | SoftTokens]) -> np.ndarray:
        """Rows ``[T, width]`` float32 of ``prompt``, as ``text_decoder`` takes them."""
        ids, places = self._ids(prompt)
        embeddings = self._model.embeddings(ids)
        for at, rows in places:
            embeddings[at : at + len(rows)] = rows
        return np.concatenate((embeddings, self._model.ple(ids)), -1)

    def _ids(self, prompt: Sequence[str | SoftTokens]) -> tuple[list[int], list[tuple[int, np.ndarray]]]:
        """Ids of ``prompt``, and the rows of its soft tokens with the place of the first."""
        ids: list[int] = [self._model.bos_id]
        places: list[tuple[int, np.ndarray]] = []
        for is_text, parts in itertools.groupby(prompt, lambda part: isinstance(part, str)):
            if is_text:
                # Together, because a token may span what comes from the template and what the user wrote.
                ids += self._vocabulary.encode("".join(str(part) for part in parts))
                continue
            for part in parts:
                assert isinstance(part, SoftTokens)
                places.append((len(ids) + 1, part.rows))
                ids += part.ids
        return ids, places
