"""What is told of the programs that hold the whole model, which ``--single-pte`` adds to a bundle."""

from __future__ import annotations

from typing import Any

RATE = 16_000
"""Samples a second of every sound."""
APPS = {
    "stock": ("ExecuTorch's MultimodalRunner", "which answered with it when it was compiled"),
    "rows": ("react-native-executorch", "in which it was not run: g3n's own loop ran it"),
}
"""Whom a form is for, and whether it ran there."""


def single_sentences(manifest: dict[str, Any]) -> list[str]:
    """A sentence for each such program: its file, its app and what ran it, what it takes."""
    files = {entry["role"]: entry for entry in manifest["files"]}
    told = []
    for program in manifest.get("single_pte", ()):
        file, (app, ran) = files[program["role"]], APPS[program["form"]]
        takes = [f"{program['chunk']} tokens at once"]
        if (side := program["image_size"]) is not None:
            takes.append(f"pictures of {side} x {side} pixels")
        if (samples := program["samples"]) is not None:
            takes.append(f"sounds of up to {samples / RATE:.0f} s")
        told.append(
            f"one program alone: {file['path']}, {file['bytes'] / 1e6:.1f} MB, for {app}, {ran}; "
            f"it takes {', '.join(takes)}"
        )
    return told
