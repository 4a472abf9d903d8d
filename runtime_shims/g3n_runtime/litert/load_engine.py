"""Load a ``.litertlm`` into the stock LiteRT-LM engine, and read what it was compiled for."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import litert_lm

from g3n_runtime.chat import Device, Placement
from g3n_runtime.errors import EngineError


def load_engine(
    name: str,
    path: Path,
    max_tokens: int,
    threads: int | None,
    cache: Path | None,
    towers: Collection[str],
    placement: Placement,
) -> Any:
    """The engine over the file at ``path``, called ``name`` in a message."""

    def on(device: Device) -> Any:
        return litert_lm.Backend.GPU() if device == "gpu" else litert_lm.Backend.CPU(thread_count=threads)

    try:
        return litert_lm.Engine(
            str(path),
            backend=on(placement.text),
            max_num_tokens=max_tokens,
            cache_dir=":nocache" if cache is None else str(cache),
            vision_backend=on(placement.vision) if "vision" in towers else None,
            audio_backend=on("cpu") if "audio" in towers else None,
        )
    except RuntimeError as error:
        raise EngineError(f"LiteRT-LM does not load {name} ({error}): see its messages above") from None


def compiled_context(path: Path) -> int:
    """Tokens that a ``.litertlm`` was compiled for."""
    try:
        with litert_lm.ModelInfo(path) as info:
            return int(info.max_context_tokens)
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(f"{path} is not a .litertlm that LiteRT-LM can read ({error})") from None
