"""Draw a token from logits as the stock engines do: temperature, then the most likely k, then the nucleus."""

from __future__ import annotations

import numpy as np

from g3n_runtime.chat import Sampler


def draw(logits: np.ndarray, sampler: Sampler, generator: np.random.Generator) -> int:
    """A token of ``logits [vocab]``; the most likely one at temperature 0."""
    if sampler.temperature == 0 or sampler.top_k == 1:
        return int(logits.argmax())
    best = np.argsort(-logits, kind="stable")[: sampler.top_k]
    scaled = logits[best].astype(np.float64) / sampler.temperature
    shares = np.exp(scaled - scaled.max())
    shares /= shares.sum()
    # The token that crosses top_p stays, so that one always does.
    kept = np.cumsum(shares) - shares < sampler.top_p
    shares = np.where(kept, shares, 0)
    return int(generator.choice(best, p=shares / shares.sum()))
