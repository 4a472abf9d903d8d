"""Run all sizes of an elastic LiteRT bundle over one copy of its weights and one set of KV caches.

The sizes are signatures of one model, so the delegate's weight cache holds what they share once, and what a size does
not touch of it is not resident. Needs ``ai-edge-litert`` and numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.options import CpuOptions, Options

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import Device
from g3n_runtime.errors import EngineError
from g3n_runtime.litert.elastic_names import VERIFY_PREFIX, signature_of
from g3n_runtime.litert.gpu import compile_for_gpu
from g3n_runtime.litert.lora import zeros
from g3n_runtime.litert.model import LiteRtParts, LiteRtTables
from g3n_runtime.litert.model_files import ModelFiles
from g3n_runtime.litert.text_loop import TextLoop
from g3n_runtime.litert.vulkan import require_driver
from g3n_runtime.names import meant

IN_MEMORY = ":memory"
"""The delegate's name for a weight cache that is no file; without any it packs a weight for each signature anew."""

Caches = dict[str, Any]
"""The engine's buffer of each cache, by its name."""


class ElasticModel:
    """The decoder of an elastic bundle and its tables.

    Args:
        parts: the models; the decoder is the one with the signatures of all sizes.
        sizes: their names, the largest first.
        threads: CPU threads.
        weight_cache: file that keeps the packed weights between loads, of this very model; in memory by default.
        device: what runs it. On the GPU all sizes are there whole and nothing is kept between loads.
        adapter: inputs of a graph that takes a LoRA adapter; those that are not given are zeros.

    Raises:
        EngineError: the device does not take the model, or there is no driver for it.
    """

    def __init__(
        self,
        parts: LiteRtParts,
        sizes: Sequence[str],
        threads: int = 2,
        weight_cache: Path | None = None,
        device: Device = "cpu",
        adapter: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.files: ModelFiles | None = None
        """What must outlive the model."""
        try:
            if device == "gpu":
                require_driver().use()
                self.model = compile_for_gpu(parts.decoder)
            else:
                cpu = CpuOptions(
                    num_threads=threads,
                    xnnpack_weight_cache_path=IN_MEMORY if weight_cache is None else str(weight_cache),
                )
                options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
                self.model = CompiledModel.from_file(str(parts.decoder), options=options)
            self.tables = LiteRtTables(parts.embedder, parts.per_layer_embedder)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"LiteRT does not load {parts.decoder.name} ({error}): copy the bundle again") from None
        self.sizes = tuple(sizes)
        names = list(self.model.get_signature_list())
        if missing := [size for size in sizes if self.signature(size, "decode") not in names]:
            raise EngineError(
                f"{parts.decoder.name} has no size {missing[0]}: the bundle's files do not belong together"
            )
        self.prefill_lengths = _lengths(names, "prefill_")
        self.verify_length = max(_lengths(names, VERIFY_PREFIX), default=0)
        """Most tokens that the largest size takes in one call and gives logits after each of."""
        shapes = {n: tuple(d["shape"]) for n, d in self.model.get_input_tensor_details("decode").items()}
        self.context = int(shapes["mask"][-1])
        self.cache_shapes = {name: shape for name, shape in shapes.items() if name.startswith("kv_cache_")}
        self._adapter = zeros(shapes) | dict(adapter or {})
        self._inputs: dict[str, Caches] = {}
        self._logits: dict[str, tuple[Any, tuple[int, ...]] | None] = {}

    def close(self) -> None:
        """Release the engine; neither the model nor its texts can be used afterwards."""
        self._inputs.clear()
        self._logits.clear()
        del self.model
        if self.files is not None:
            self.files.close()

    def signature(self, size: str, name: str) -> str:
        """What the model calls the signature ``name`` of ``size``.

        Raises:
            EngineError: the bundle has no such size.
        """
        if size not in self.sizes:
            have = ", ".join(self.sizes)
            raise EngineError(f"the bundle has no size {size!r}, it has {have}{meant(size, self.sizes)}")
        return signature_of(None if size == self.sizes[0] else size, name)

    def new_caches(self) -> Caches:
        return {name: self.model.create_input_buffer_by_name("decode", name) for name in self.cache_shapes}

    def run(self, signature: str, inputs: dict[str, np.ndarray], old: Caches, new: Caches) -> np.ndarray | None:
        """Call ``signature`` on caches ``old``; what comes out goes to ``new``.

        Returns:
            logits ``[T, vocab]`` float32, or ``None`` from a prefill.
        """
        if signature not in self._inputs:
            self._inputs[signature] = self._new_inputs(signature, inputs)
        buffers = self._inputs[signature]
        for name, value in inputs.items():
            buffers[name].write(value)
        if signature not in self._logits:
            self._logits[signature] = self._logits_of(signature)
        if (found := self._logits[signature]) is None:
            self.model.run_by_name(signature, buffers | old, new)
            return None
        logits, shape = found
        self.model.run_by_name(signature, buffers | old, new | {"logits": logits})
        return np.asarray(logits.read(int(np.prod(shape)), np.float32)).reshape(shape[1:])

    def _new_inputs(self, signature: str, names: Iterable[str]) -> Caches:
        """Buffers for the inputs ``names`` of a signature, and for those of its adapter, which are written here."""
        adapter = {n: self._adapter[n] for n in self.model.get_input_tensor_details(signature) if n in self._adapter}
        buffers = {n: self.model.create_input_buffer_by_name(signature, n) for n in (*names, *adapter)}
        for name, value in adapter.items():
            buffers[name].write(value)
        return buffers

    def _logits_of(self, signature: str) -> tuple[Any, tuple[int, ...]] | None:
        """The buffer for a signature's logits and its shape, if it has any."""
        details = self.model.get_output_tensor_details(signature).get("logits")
        if details is None:
            return None
        return self.model.create_output_buffer_by_name(signature, "logits"), tuple(details["shape"])


class ElasticText(TextLoop):
    """One text on its way through the sizes of a model, any of which may take the next token."""

    def __init__(self, model: ElasticModel) -> None:
        super().__init__(model.tables, model.context, model.prefill_lengths)
        self.model = model
        self._now, self._spare = model.new_caches(), [model.new_caches()]
        for name, shape in model.cache_shapes.items():
            self._now[name].write(np.zeros(shape, np.float32))
        self._before: Caches = self._now
        self._verified = 0

    def _signature(self, name: str, size: str | None) -> str:
        return self.model.signature(self.model.sizes[0] if size is None else size, name)

    def _call(self, signature: str, inputs: dict[str, np.ndarray]) -> np.ndarray | None:
        logits = self.model.run(signature, inputs, self._now, self._spare[0])
        self._now, self._spare[0] = self._spare[0], self._now
        self._before, self._verified = self._spare[0], 0
        return logits

    def draft(self, token: int, count: int, size: str) -> list[int]:
        """``count`` greedy tokens of ``size`` after ``token``; the text stays as it is."""
        signature = self.model.signature(size, "decode")
        while len(self._spare) < 3:
            self._spare.append(self.model.new_caches())
        old, new, other = self._now, self._spare[1], self._spare[2]
        drafted: list[int] = []
        for i in range(count):
            logits = self.model.run(signature, self._inputs([token], len(self.ids) + i, 1), old, new)
            assert logits is not None
            token = int(logits[0].argmax())
            drafted.append(token)
            old, new, other = new, other, new
        return drafted

    def verify(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits ``[T, vocab]`` float32 of the largest size after each of ``tokens``, in one call.

        The tokens belong to the text; :meth:`keep` takes the last ones back.
        """
        length = self.model.verify_length
        if not 0 < len(tokens) <= length:
            raise EngineError(f"{len(tokens)} tokens were to be verified, the bundle takes up to {length} at a time")
        logits = self._step(tokens, length, f"{VERIFY_PREFIX}{length}")
        assert logits is not None
        self._verified = len(tokens)
        return logits[: len(tokens)]

    def keep(self, count: int) -> None:
        """Of the tokens last verified keep the first ``count``."""
        start = len(self.ids) - self._verified
        gone = np.arange(start + count, len(self.ids))
        if not 0 <= count <= self._verified:
            raise EngineError(f"{count} tokens were to be kept of the {self._verified} that were verified last")
        if len(gone):
            for name, shape in self.model.cache_shapes.items():
                axis = 2 if "_k_" in name else 3
                # A full cache hides what lies past the text; in a ring it took the place of what is still seen.
                if shape[axis] < self.model.context:
                    self._restore(name, shape, axis, gone % shape[axis])
        del self.ids[start + count :]
        self._verified = 0

    def _restore(self, name: str, shape: tuple[int, ...], axis: int, slots: np.ndarray) -> None:
        now, before = (
            np.array(caches[name].read(int(np.prod(shape)), np.float32)).reshape(shape)
            for caches in (self._now, self._before)
        )
        at = (slice(None),) * axis + (slots,)
        now[at] = before[at]
        self._now[name].write(now)


def open_elastic(bundle: Bundle, threads: int = 2, device: Device = "cpu") -> ElasticModel:
    """All sizes of ``bundle``; its models are copied into the user's cache folder the first time.

    Raises:
        EngineError: the bundle has one size only, there is no room for the copies, or ``device`` does not take it.
    """
    entry = bundle.manifest.get("elastic")
    if entry is None:
        raise EngineError(f"{bundle.directory.name} has one size only: compile it with --elastic")
    sections = {name: entry[name] for name in ("decoder", "embedder", "per_layer_embedder")}
    sizes = [size["name"] for size in bundle.manifest["sizes"]]
    for cached in (True, False):
        files = ModelFiles(bundle.open_file("litertlm"), sections, cached)
        model = ElasticModel(LiteRtParts(**files.paths), sizes, threads, files.weights, device)
        model.files = files
        if files.settle():
            return model
        model.close()
    raise EngineError(f"the models of {bundle.directory.name} were changed while they were loaded: start again")


def _lengths(names: Sequence[str], prefix: str) -> tuple[int, ...]:
    return tuple(sorted(int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)))
