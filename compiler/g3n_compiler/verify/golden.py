"""Golden inputs: what every artifact is run on. They are fixed, so that later runs compare the same numbers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.models.gemma3n.text_config import TextConfig

PROMPTS = ("Reverse: stone river house", 'Use "river" in a sentence.')
"""One whose answer can be seen to be right, and one that is freer."""
GENERATED = 24
"""Greedy tokens compared after each prompt."""
LONGEST = 900


@dataclass(frozen=True)
class Golden:
    """Token ids to run teacher-forced; the first ``prompt`` of them also go through prefill."""

    name: str
    ids: tuple[int, ...]
    prompt: int


def golden_inputs(tokenizer: TextTokenizer, config: TextConfig, context: int) -> list[Golden]:
    """A chat prompt, and ids drawn from the whole vocabulary that are longer than the sliding window."""
    chat = tokenizer.chat(PROMPTS[0])
    length = min(config.sliding_window + config.sliding_window // 2 + 7, context - 1, LONGEST)
    generator = random.Random(0)
    drawn = (config.bos_id, *(generator.randrange(config.vocab_size) for _ in range(length - 1)))
    return [
        Golden("chat", tuple(chat), len(chat) - 2),
        Golden("beyond the window", drawn, max(2, length - 5)),
    ]
