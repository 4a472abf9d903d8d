"""What will be compiled, and what of it decides the bundle's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from g3n_compiler.bundle.destination import Destination
from g3n_compiler.bundle.fingerprint import as_json
from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.slice.choose import Choice
from g3n_compiler.slice.elastic import Size
from g3n_compiler.source import Source
from g3n_compiler.targets import Target
from g3n_compiler.tensor_account import Account
from g3n_compiler.verify.held import HeldTexts
from g3n_compiler.widths.bounds import Bounds

BESIDE_THE_FILES = {
    "tokenizer": "it is read from files that the key has by their digests",
    "account": "it is counted from the checkpoint, which the key has by its digests",
    "inputs": "they are the same files",
    "out": "it is how the user wrote the destination, whose name is in the key",
    "command": "the manifest quotes it, but other words for the same request make the same files otherwise",
}
"""Fields of :class:`Request` that are not in the bundle's key, and why; all others are."""
FROM_CHECKPOINT = ("checkpoint", "family", "whole", "rewrites")
"""Fields of :class:`Source` that follow from the checkpoint's files, which the key has by their digests (and whether
weights are rewritten, from the recipe)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What will be compiled: the options, checked against the target, the backends and the checkpoint."""

    target: Target
    recipe: Recipe
    backends: Mapping[Runtime, Backend]
    source: Source
    tokenizer: TextTokenizer
    account: Account
    size: str
    """The manifest's name for the checkpoint's size."""
    choice: Choice | None
    """The slice, unless the whole checkpoint is compiled."""
    sizes: tuple[Size, ...]
    """The sizes of an elastic bundle, largest first."""
    context: int
    prefill_lengths: tuple[int, ...]
    resolutions: tuple[int, ...]
    inputs: Inputs
    """The files that are read, which must not change during the compile."""
    out: Path
    """The bundle's folder, as the user named it."""
    destination: Destination
    """Where that path leads, and what is there already."""
    command: str
    accelerator: str | None
    """What of this machine runs the subgraphs that the target places on an accelerator."""
    held: HeldTexts | None
    """The texts on which the loss of rounding is measured; none if nothing is rounded."""
    bounds: Bounds
    tools: bool
    lora_rank: int
    """Rank of the adapters that the engine can add while it runs; 0 for none."""
    single: tuple[str, ...]
    """Forms of ExecuTorch programs that hold the whole model, besides the bundle's own."""
    stem: str
    """Begins the names of the files that people move into other apps."""

    @property
    def name(self) -> str:
        return self.destination.name

    def decides_bytes(self) -> dict[str, Any]:
        """Everything that was asked for and that decides the bundle's files, as JSON values.

        It goes by the fields, so that a new one is in the key unless :data:`BESIDE_THE_FILES` has it.

        Raises:
            TypeError: a field has no form as JSON, and nobody decided what of it counts.
        """
        source, adapter = self.source, self.source.adapter
        read = {f.name: getattr(source, f.name) for f in fields(source) if f.name not in FROM_CHECKPOINT}
        counted = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in BESIDE_THE_FILES}
        return {
            name: as_json(value)
            for name, value in {
                **counted,
                "target": self.target.name,
                "backends": list(self.backends),
                "source": read | {"adapter": None if adapter is None else adapter.sha256},
                "destination": self.destination.name,
            }.items()
        }
