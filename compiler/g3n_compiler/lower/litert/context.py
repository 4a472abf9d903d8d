"""How long the full caches of a graph are, so that LiteRT-LM can shorten them when it loads the file.

Where the last dimension of the input ``mask`` is a prime, the engine replaces that prime, in every shape and in some
operands, by the number of tokens that it is asked for, or else by the largest multiple of 256 below it
(``litert/runtime/magic_number_utils.cc`` of LiteRT, ``MagicNumberConfigsHelper`` of LiteRT-LM). So a graph with a prime
just above the context that was asked for serves this context and every shorter one, and a short chat does not pay for
a long cache. Any other graph must not have a prime there: the engine would change it unasked.

The engine replaces multiples of the prime too, so no other dimension may be one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import text_weights

LEAST_PRIME = 11
"""The engine takes smaller primes for what they are."""


def usable_context(config: TextConfig, context: int, prefill_lengths: Sequence[int]) -> int:
    """Tokens that the engine must be given so that a prompt may fill ``context``.

    It refuses a chunk whose padding reaches past the end of a cache that it has shortened, so a cache holds whole
    chunks; within what the model supports.
    """
    longest = max(prefill_lengths)
    return max(context, min(-(-context // longest) * longest, config.max_context))


def full_cache_length(config: TextConfig, context: int, prefill_lengths: Sequence[int]) -> int:
    """Positions of the full caches of a graph whose ``context`` can be used whole.

    A prime above it, so that the engine can shorten the caches. Where ``context`` is within the sliding window, the
    rings would be as long as the full caches, and constants depend on a ring's length: then the first number from
    ``context`` on that is no prime.
    """
    if "full_attention" not in config.layer_types or context < config.sliding_window:
        return next(n for n in range(context, 2 * context + 2) if not _is_prime(n))
    taken = _dimensions(config, prefill_lengths)
    above = range(max(context + 1, LEAST_PRIME), 16 * (context + LEAST_PRIME))
    return next(n for n in above if _is_prime(n) and not any(other % n == 0 for other in taken))


def is_adjustable(length: int) -> bool:
    """Whether the engine changes full caches of ``length`` positions when it loads a graph."""
    return length >= LEAST_PRIME and _is_prime(length)


def require_adjustable(model: Any, length: int) -> None:
    """See that ``model``, as :func:`.flatbuffer.parse` gives it, has no dimension that the engine would take for
    several caches.

    Raises:
        AssertionError: it has one.
    """
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            for size in () if tensor.shape is None else tensor.shape.tolist():
                if size > length and size % length == 0:
                    raise AssertionError(f"a dimension of {size} is a multiple of the full caches' {length}")


def _dimensions(config: TextConfig, prefill_lengths: Sequence[int]) -> Collection[int]:
    """Dimensions of a graph that do not come from the full caches, as far as they may reach past a context."""
    sizes = {size for spec in text_weights(config).values() for size in spec.shape}
    sizes |= {config.vocab_size, config.sliding_window, config.num_layers * config.ple_dim}
    for length in (1, *prefill_lengths):
        rows = length * config.num_heads // config.num_kv_heads
        sizes |= {length, rows, length + config.sliding_window, length * config.altup_num_inputs}
    return sizes


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))
