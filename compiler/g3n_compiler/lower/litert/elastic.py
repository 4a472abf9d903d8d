"""An elastic bundle on LiteRT: the stock engine finds the largest size and our loop finds every size, over the same
bytes.

The decoder's section begins with a header that lists only the largest size's signatures, because an engine prepares
every signature that it finds. A view of the section begins with a second header, which lists the signatures of all
sizes::

    prefill_decode:         | prefill_128 decode | prefill_128 decode verify_5 half:prefill_128 half:decode | weights |
    prefill_decode_elastic:                      | prefill_128 decode verify_5 half:prefill_128 half:decode | weights |

A weight that several sizes use is one buffer for all of them, just as prefill and decode share one, so the delegate's
weight cache packs it once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from g3n_compiler.lower.artifact import Files
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert.container import find_section
from g3n_compiler.lower.litert.delegation import operators_by_signature, summarize
from g3n_compiler.lower.litert.opened import OpenedLayers, OpenedTextModel
from g3n_compiler.lower.opened import LayeredModel, TextModel
from g3n_compiler.lower.signatures.text import DECODE, VERIFY_LENGTH, prefill_name, verify_name
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.slice.elastic import Size
from g3n_runtime.litert.elastic_names import ELASTIC_VIEW, signature_of


def signature_groups(job: Job) -> list[list[str]]:
    """Signatures of each file header; none for a bundle with one size."""
    plain = [*(prefill_name(n) for n in job.prefill_lengths), DECODE]
    if not job.sizes:
        return []
    verify = verify_name(VERIFY_LENGTH)
    return [plain, [*plain, verify, *(signature_of(size.name, name) for size in job.sizes for name in plain)]]


def measure_sizes(packed: Path, job: Job) -> dict[str, Any]:
    """What the delegate runs of each smaller size."""
    operators = operators_by_signature(packed, find_section(packed, ELASTIC_VIEW).begin)
    plain = signature_groups(job)[0]
    return {
        size.name: asdict(summarize(op for name in plain for op in operators[signature_of(size.name, name)]))
        for size in job.sizes
    }


class LiteRtSize:
    """A smaller size of a bundle that :class:`.backend.LiteRtBackend` wrote, as verification opens it."""

    runtime: Runtime = "litert"

    def __init__(self, role: str, size: Size) -> None:
        self._role, self._size = role, size

    def open_models(self, files: Files) -> Iterator[tuple[str, TextModel]]:
        yield f"signatures of {self._size.name}", OpenedTextModel(files[self._role], self._size)

    def open_layers(self, files: Files, config: TextConfig) -> dict[str, LayeredModel]:
        return {f"layers of {self._size.name}": OpenedLayers(files[self._role], config, self._size)}
