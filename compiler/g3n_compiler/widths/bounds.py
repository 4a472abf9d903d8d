"""What a user allows a bundle: a size and a loss, and whether the files that were made keep within the size."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from g3n_compiler.checkpoint.meter import in_words
from g3n_compiler.errors import TargetError
from g3n_compiler.lower.artifact import Lowered
from g3n_compiler.lower.job import Job
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import AUTO, Recipe

GRAPHS = 3_000_000
"""Bytes for the graphs of all subgraphs; nano's take 1.8 MB."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Files of a checkpoint; a bundle has one of them, as it is or written anew."""


class Bounds(NamedTuple):
    """What a bundle may take and lose; ``None`` where it may be whatever it is."""

    size: int | None = None
    """Bytes of the files for one runtime."""
    loss: float | None = None
    """Part of the perplexity: 0.03 for 3%."""

    def require_used(self, recipe: Recipe) -> None:
        """Raise for a recipe that is chosen within a bound if there is none."""
        if recipe.name == AUTO and self == Bounds():
            raise TargetError(f"--quant {AUTO} chooses within a bound: add --max-size 2GB, --max-loss 3%, or both")

    def require_size(self, lowered: Lowered, directory: Path) -> None:
        """Raise if the files of a runtime are larger than was allowed."""
        paths = lowered.paths(directory)
        for runtime in dict.fromkeys(s.runtime for s in lowered.subgraphs):
            files = {paths[s.role] for s in lowered.subgraphs if s.runtime == runtime}
            total = sum(path.stat().st_size for path in files)
            if self.size is not None and total > self.size:
                raise TargetError(
                    f"the files for {runtime} take {in_words(total)}, over --max-size {in_words(self.size)}: "
                    f"use --quant {AUTO} or a smaller recipe, leave a tower out with --modalities, or allow more"
                )


def expected_bytes(job: Job, recipe: Recipe) -> int:
    """Bytes of the files for one runtime with this recipe, rather too many than too few."""
    source = job.source
    specs = [*text_weights(source.text).values(), *embedding_weights(source.text).values()]
    for tower in source.towers:
        if tower in source.modalities:
            specs += source.family.towers[tower].weights(source).values()
    texts = [source.directory / name for name in TOKENIZERS]
    return recipe.stored_bytes(specs) + GRAPHS + max((p.stat().st_size for p in texts if p.is_file()), default=0)
