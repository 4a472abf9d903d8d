"""What a bundle and the files in it are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from g3n_compiler.checkpoint.hub import checkpoint_name
from g3n_compiler.checkpoint.hub_id import called
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.slice.choose import Choice
from g3n_compiler.slice.elastic import Size
from g3n_compiler.targets import Target

if TYPE_CHECKING:
    from g3n_compiler.request.options import CompileOptions

MAX_STEM = 80
"""Characters before the recipe in the name of a file."""


def bundle_name(
    size: str,
    choice: Choice | None,
    sizes: Sequence[Size],
    target: Target,
    recipe: Recipe,
    lora_rank: int | None = None,
) -> str:
    """The bundle's folder if the user did not name one."""
    label = size if choice is None else choice.size or f"{size}-slice"
    return f"{label}{'-elastic' if sizes else ''}-{target.name}-{recipe.name}{_for_lora(lora_rank)}"


def file_stem(options: CompileOptions, size: str, choice: Choice | None, recipe: Recipe) -> str:
    """The checkpoint's name, what was made of it and the recipe, as every file system and app takes them.

    A checkpoint is called as its folder or its repository on the hub is.
    """
    parts = [checkpoint_name(size, options.checkpoint)]
    if options.lora is not None:
        parts.append(called(options.lora))
    if choice is not None:
        parts.append(choice.size or "slice")
    if options.elastic is not None:
        parts.append("elastic")
    # The recipe must not be cut off, nor that the file needs an adapter's beside it.
    return f"{_safe('-'.join(parts))[:MAX_STEM].rstrip('-.')}-{recipe.name}{_for_lora(options.lora_rank)}"


def _for_lora(rank: int | None) -> str:
    return f"-lora{rank}" if rank else ""


def _safe(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"
