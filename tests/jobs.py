"""Jobs as tests lower them: every field that a test does not care about has a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.lower.job import Job
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.source import Source
from g3n_compiler.targets import get_target


def make_job(source: Source, folder: Path, recipe: str = "fp32", target: str = "host", **fields: Any) -> Job:
    """Lower ``source`` into ``folder`` for a context of 64 tokens, unless ``fields`` say otherwise."""
    return Job(
        source=source,
        tokenizer=load_tokenizer(source.directory, gemma3n_config(source.text), source.modalities),
        recipe=RECIPES[recipe],
        target=get_target(target),
        directory=folder,
        progress=lambda line: None,
        **{"context": 64, "prefill_lengths": (16,), **fields},
    )
