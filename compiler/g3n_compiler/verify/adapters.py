"""Hold a bundle that takes LoRA adapters while it runs against the reference with one: random, of the full rank."""

from __future__ import annotations

import torch

from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.signatures.lora import lora_inputs
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import Adapted
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import Check
from g3n_compiler.verify.golden import Golden
from g3n_compiler.verify.reference import Reference
from g3n_compiler.verify.text import Expected, artifact_checks


def adapter_checks(job: Job, backend: Backend, golden: Golden) -> list[Check]:
    """Compare ``backend``'s decoder with an adapter layer by layer, and its whole graph with its layers."""
    adapter = random_adapter(job.source, job.lora_rank)
    recipe: Recipe | None = None if job.recipe.name == "fp32" else job.recipe
    rounded = Reference(job.source, recipe, adapter)
    checks = artifact_checks(job, backend.with_adapter(adapter, job.lora_rank), Expected([golden]), rounded)
    return [check for check in checks if check.subgraph == "core"]


def random_adapter(source: Source, rank: int, seed: int = 0) -> dict[str, Adapted]:
    """An adapter that changes every matrix that one can, about as much as the matrix itself does."""
    generator = torch.Generator().manual_seed(seed)
    adapter = {}
    for name, pair in lora_inputs(text_weights(source.text), rank).items():
        a = torch.randn(pair.a_shape, generator=generator) * pair.a_shape[0] ** -0.5
        adapter[name] = a, torch.randn(pair.b_shape, generator=generator) * rank**-0.5
    return adapter
