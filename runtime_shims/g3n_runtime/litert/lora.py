"""LoRA adapters that LiteRT-LM adds to a bundle while it runs. Needs numpy only.

A graph that was compiled with ``--lora-rank`` takes an adapter as inputs. LiteRT-LM 0.18.1 gives them what an adapter's
file holds, but where a conversation has no file it leaves them as they are: memory that nobody has written, or the
adapter of the conversation before. So such a bundle has a file that holds nothing but zeros, and every conversation is
given a file.

``g3n-lora`` writes an adapter's file for one bundle. What the engine does not read is in its last page: a mark, and
JSON that says which bundle that is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from g3n_runtime.errors import EngineError
from g3n_runtime.open_file import OpenFile

if TYPE_CHECKING:  # the emulated aarch64 machine, which runs models with this module, has no jsonschema
    from g3n_runtime.bundle import Bundle

INPUT = "lora_"
"""Begins the names of the inputs that an adapter fills."""
NO_ADAPTER = "lora_none"
"""Role of the file that stands for no adapter."""
TURNS = "lora_turns"
"""Role of the file with the rotations of values that an adapter must follow, in a bundle whose weights were rotated."""
FOOTER_BYTES = 4096
MOST_BYTES = 1 << 29
"""Of an adapter's file; one of rank 32 for E4B has 50 MB."""
MARK = b"g3n-lora 1\n"
PAGE = 1 << 16
"""A multiple of the page of every machine: the engine maps whole pages."""


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """What the inputs of an adapter are where there is none, of all ``shapes`` of inputs."""
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name.startswith(INPUT)}


def base_of(manifest: Mapping[str, Any]) -> str:
    """A digest of all that an adapter's file depends on: equal for two bundles, the same file fits both.

    Raises:
        EngineError: the bundle takes no adapter.
    """
    if "lora" not in manifest:
        raise EngineError(f"{manifest['name']} takes no adapter: compile it with --lora-rank")
    files = {entry["role"]: entry["sha256"] for entry in manifest["files"]}
    depends = {
        "checkpoint": manifest["provenance"]["checkpoint"],
        "layers": manifest["model"]["slice"].get("kept"),
        "rank": manifest["lora"]["rank"],
        "turns": files.get(TURNS),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def footer(content: bytes, base: str) -> bytes:
    """The last page of an adapter's file, after ``content``."""
    says = json.dumps({"base": base, "sha256": hashlib.sha256(content).hexdigest()})
    return (MARK + says.encode()).ljust(FOOTER_BYTES, b"\0")


def adapter_file(bundle: Bundle, path: Path | None) -> OpenFile | None:
    """What conversations with ``bundle`` are given: the adapter's file at ``path`` or, without one, the bundle's own.

    ``None`` for a bundle that takes no adapter.

    Raises:
        EngineError: there is no such file, it is damaged, no file of ``g3n-lora`` or for another bundle, or the bundle
            takes no adapter.
    """
    if path is None:
        return bundle.open_file(NO_ADAPTER) if "lora" in bundle.manifest else None
    base, file = base_of(bundle.manifest), OpenFile(path, EngineError)
    if file.size > MOST_BYTES:
        raise EngineError(f"{path} has {file.size} bytes, at most {MOST_BYTES} are read: pass a file of g3n-lora")
    content = file.read(0, max(0, file.size - FOOTER_BYTES))
    end = file.read(file.size - FOOTER_BYTES) if file.size > FOOTER_BYTES else b""
    if not end.startswith(MARK):
        raise EngineError(
            f"{path} was not written by g3n-lora, or is not whole: pass the file that it makes of a PEFT adapter"
        )
    try:
        says = json.loads(end.removeprefix(MARK).rstrip(b"\0"))
        found, digest = says["base"], says["sha256"]
    except (ValueError, TypeError, KeyError):
        raise EngineError(f"the end of {path} is damaged: make it again with g3n-lora") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise EngineError(f"{path} is damaged: make it again with g3n-lora")
    if found != base:
        raise EngineError(
            f"{path} was made for another bundle than {bundle.directory.name}: another checkpoint, slice or rank, or "
            "other rotations of its weights. Make it again with g3n-lora"
        )
    return file
