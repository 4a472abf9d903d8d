"""Targets as data: what each device runs, and where. A new target is one entry in :data:`TARGETS`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from g3n_compiler.errors import TargetError
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.lower.subgraphs import Runtime, Subgraph
from g3n_runtime.names import unknown


@dataclass(frozen=True)
class Placement:
    """Where a subgraph runs: ``device`` is ``accelerator`` or ``cpu``; ``delegate`` is what runs it there."""

    device: Literal["accelerator", "cpu"]
    delegate: Literal["gpu", "xnnpack", "mmap"]
    verified_by: Literal["xnnpack", "mmap"]
    """What runs the same artifact on the compiling host, to compare it with the reference before it ships."""


GPU = Placement("accelerator", "gpu", "xnnpack")
CPU = Placement("cpu", "xnnpack", "xnnpack")
ROWS = Placement("cpu", "mmap", "mmap")
"""Table look-ups: rows are read from a mapped file, without a delegate."""


def _placement(core: Placement, vision: Placement) -> dict[Subgraph, Placement]:
    """On every target, tables are mapped and audio runs on the CPU; the core and the vision encoder vary."""
    return {
        "core": core,
        "token_embedding": ROWS,
        "per_layer_embedding": ROWS,
        "vision_encoder": vision,
        "vision_adapter": CPU,
        "audio_encoder": CPU,
        "audio_adapter": CPU,
        "end_of_audio": CPU,
    }


def _always(soc: str | None) -> None:
    if soc is not None:
        raise TargetError(f"--soc {soc} is for --target pixel: this target has no chip-specific artifacts")


def _pixel(soc: str | None) -> None:
    if soc is None:
        return
    if not soc.startswith("Tensor_G") or soc not in TENSOR_SOCS:
        raise TargetError(unknown("chip", soc, TENSOR_SOCS))
    sdk = importlib.util.find_spec("ai_edge_litert_sdk_google_tensor") or os.environ.get("GOOGLE_TENSOR_COMPILER_LIB")
    if sdk is None:
        raise TargetError(
            f"compiling ahead of time for {soc} needs Google's Tensor SDK, which is not installed: install "
            "ai-edge-litert-sdk-google-tensor, or leave --soc out to run the core on the GPU"
        )
    raise TargetError(
        f"an NPU bundle for {soc} needs the engine's separate mask, rope and cache-update signatures, which this "
        "version does not emit: leave --soc out to run the core on the GPU"
    )


def _snapdragon(soc: str | None) -> None:
    if not os.environ.get("QNN_SDK_ROOT"):
        raise TargetError(
            "snapdragon lowers to Qualcomm's NPU and needs the QNN SDK: install it and set QNN_SDK_ROOT, "
            "or use --target android, which runs on the phone's CPU"
        )
    raise TargetError(
        "lowering Gemma 3n through the QNN SDK has not been verified, so it is refused: "
        "use --target android, which runs on the phone's CPU"
    )


TENSOR_SOCS = ("Tensor_G3", "Tensor_G4", "Tensor_G5", "Tensor_G6")


@dataclass(frozen=True)
class Target:
    """One row of the table: its runtimes, and where each subgraph runs."""

    name: str
    summary: str
    runtimes: tuple[Runtime, ...]
    placement: Mapping[Subgraph, Placement]
    check: Callable[[str | None], None] = _always
    """Raises :class:`TargetError` with the remedy if the request cannot be met (argument: ``--soc``)."""

    @property
    def accelerated(self) -> bool:
        """Whether it places anything on an accelerator."""
        return any(placement.device == "accelerator" for placement in self.placement.values())

    def place(self, subgraph: Subgraph) -> Placement:
        """Where ``subgraph`` runs; raises :class:`TargetError` if the target does not say."""
        try:
            return self.placement[subgraph]
        except KeyError:
            raise TargetError(f"--target {self.name} does not say where the subgraph {subgraph} runs") from None


TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            "pixel",
            "LiteRT-LM: core and vision on the GPU, embeddings and audio on the CPU",
            ("litert",),
            _placement(core=GPU, vision=GPU),
            _pixel,
        ),
        Target(
            "android",
            "ExecuTorch: XNNPACK on any arm64 phone's CPU",
            ("executorch",),
            _placement(core=CPU, vision=CPU),
        ),
        Target(
            "snapdragon",
            "ExecuTorch: Qualcomm's NPU through QNN",
            ("executorch",),
            _placement(core=GPU, vision=GPU),
            _snapdragon,
        ),
        Target(
            "host",
            "both runtimes on this machine's CPU through XNNPACK",
            ("litert", "executorch"),
            _placement(core=CPU, vision=CPU),
        ),
    )
}


def get_target(name: str) -> Target:
    try:
        return TARGETS[name]
    except KeyError:
        raise TargetError(unknown("target", name, TARGETS)) from None


def choose_runtimes(target: Target, asked: str | None) -> tuple[Runtime, ...]:
    """The runtimes to emit: those asked for, or the target's own. A runtime that the target does not run is refused."""
    if asked is None:
        return target.runtimes
    wanted = tuple(BACKENDS) if asked == "both" else tuple(r for r in BACKENDS if r == asked)
    if missing := [r for r in wanted if r not in target.runtimes]:
        others = [t.name for t in TARGETS.values() if set(wanted) <= set(t.runtimes)]
        raise TargetError(
            f"--target {target.name} does not run {' or '.join(missing)} "
            f"(it runs {', '.join(target.runtimes)}): use --target {' or '.join(others)}"
        )
    return wanted
