"""Self-speculative decoding: a small size of an elastic bundle drafts, the largest verifies the draft in one call.

Source: "Fast Inference from Transformers via Speculative Decoding" (arXiv 2211.17192), in its greedy form: a drafted
token counts where it is the largest size's own choice, so the text is the one that the largest size would write alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from g3n_runtime.errors import EngineError
from g3n_runtime.litert.elastic import ElasticText


@dataclass
class Acceptance:
    """How a speculation went."""

    drafted: int = 0
    accepted: int = 0
    verifications: int = 0
    tokens: int = 0

    @property
    def rate(self) -> float:
        """Part of the drafted tokens that were the largest size's own."""
        return self.accepted / self.drafted if self.drafted else 0.0


class SpeculativeDecoder:
    """Greedy tokens of the largest size of ``text``'s model, drafted by ``size``.

    Args:
        length: tokens drafted at a time; by default as many as one call verifies.

    Raises:
        EngineError: ``size`` is the largest itself, or ``length`` more than one call verifies.
    """

    def __init__(self, text: ElasticText, size: str, length: int | None = None) -> None:
        model = text.model
        most = model.verify_length - 1
        if size not in model.sizes[1:]:
            raise EngineError(f"{size!r} cannot draft: expected a smaller size, {' or '.join(model.sizes[1:])}")
        if length is not None and not 0 < length <= most:
            raise EngineError(f"{length} tokens cannot be drafted at a time: this bundle verifies up to {most}")
        self._text, self._size, self._length = text, size, most if length is None else length
        self.acceptance = Acceptance()

    def generate(self, token: int, count: int, stop: Collection[int] = ()) -> Iterator[int]:
        """Up to ``count`` tokens after ``token``, the last of the prompt; ends before a token of ``stop``.

        The text then holds what was yielded but for its last token, so that any size can go on.
        """
        text, figures = self._text, self.acceptance
        while count > 0:
            room = text.model.context - len(text.ids) - 1
            drafted = text.draft(token, max(0, min(self._length, count - 1, room)), self._size)
            best = text.verify([token, *drafted]).argmax(-1).tolist()
            accepted = next((i for i, (d, b) in enumerate(zip(drafted, best, strict=False)) if d != b), len(drafted))
            new = best[: accepted + 1]
            ended = next((i for i, t in enumerate(new) if t in stop), len(new))
            text.keep(min(accepted + 1, ended + 1))
            figures.drafted += len(drafted)
            figures.accepted += accepted
            figures.verifications += 1
            for token in new[:ended]:
                figures.tokens += 1
                yield token
            if ended < len(new):
                return
            count -= len(new)
