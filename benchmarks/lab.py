"""What several benchmarks do: timing, this process's memory, random checkpoints, and questions of nano alone."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.source import Source
from g3n_runtime.bundle import Bundle
from g3n_runtime.errors import BundleError

PLANTED = click.option(
    "--planted",
    is_flag=True,
    help="Take bundles of any checkpoint, such as one with planted outliers, which computes the same as nano.",
)

Figures = dict[str, float]
"""What :func:`figures` gives, by name."""


def is_of_nano(bundle: Bundle) -> bool:
    """Whether a bundle was made of the embedded checkpoint, or of what ``g3n-calibrate`` made of it."""
    origin = bundle.manifest["provenance"]
    source = origin.get("calibration", {}).get("source", origin["checkpoint"])
    return bool(source == Checkpoint(checkpoint_dir()).sha256())


def require_nano(bundle: Bundle) -> None:
    """Refuse a bundle of another checkpoint."""
    if not is_of_nano(bundle):
        raise BundleError(
            f"{bundle.directory} was not compiled from the embedded checkpoint: compile it with --size nano, or pass "
            "--planted if its checkpoint computes the same"
        )


def recipe_label(bundle: Bundle) -> str:
    """The recipe, whether the checkpoint was calibrated for it, and the folder if it is another checkpoint's."""
    calibrated = ", calibrated" if "calibration" in bundle.manifest["provenance"] else ""
    return bundle.manifest["recipe"]["name"] + calibrated + ("" if is_of_nano(bundle) else f", {bundle.directory.name}")


def predictions(
    logits_of: Callable[[Sequence[int]], Tensor | np.ndarray], documents: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Log probabilities ``[T, vocab]`` of each document's tokens but the first; ``logits_of`` gives ``[T, vocab]``."""
    return [torch.log_softmax(torch.as_tensor(logits_of(ids[:-1])), -1) for ids in documents]


def figures(exact: Sequence[Tensor], got: Sequence[Tensor], documents: Sequence[Sequence[int]]) -> Figures:
    """Perplexity, divergence in nats and share of the same first choices, per token.

    Args:
        exact: log probabilities ``[T, vocab]`` of each document's tokens but the first, by the model in float32.
        got: the same of the model that is measured.
        documents: ids of each document, bos first.
    """
    nats = divergence = same = 0.0
    for p, q, ids in zip(exact, got, documents, strict=True):
        nats -= float(q[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum(dtype=torch.float64))
        divergence += float((p.exp() * (p - q)).sum(dtype=torch.float64))
        same += float((p.argmax(-1) == q.argmax(-1)).sum())
    count = sum(len(ids) - 1 for ids in documents)
    return {"perplexity": math.exp(nats / count), "divergence": divergence / count, "same": same / count}


def seconds_of(run: Callable[[], object], times: int) -> list[float]:
    """Seconds that ``run`` takes, each of so many ``times``."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def resident_bytes() -> dict[str, int]:
    """This process's resident bytes: ``RssAnon``, ``RssFile``, ``RssShmem``, and the peak of all, ``VmHWM``."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return {name: int(kib) << 10 for name, kib in re.findall(r"^(VmHWM|Rss\w+):\s+(\d+) kB", status, re.MULTILINE)}


def save_random(directory: Path, shape: Mapping[str, Any]) -> Source:
    """Save a random bfloat16 text checkpoint of ``shape``, in the words of ``transformers``' configuration."""
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    torch.manual_seed(0)
    Gemma3nForCausalLM(Gemma3nTextConfig(**shape)).bfloat16().save_pretrained(directory)
    return Source.open(directory)
