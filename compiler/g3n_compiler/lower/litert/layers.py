"""What each layer of a bound model outputs, run layer by layer so that only one layer is in memory at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from g3n_compiler.lower.litert.partial_model import Opener, Part, PartialModel
from g3n_compiler.lower.signatures.text import DECODE, prefill_name, streams_name
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_runtime.litert.elastic_names import signature_of
from g3n_runtime.litert.lora import zeros
from g3n_runtime.litert.text_loop import prefill_chunks, signature_inputs


@dataclass
class _Call:
    """One call of a signature: its inputs, and what the layers run so far have computed."""

    signature: str
    count: int
    inputs: dict[str, np.ndarray]
    streams: dict[str, np.ndarray] = field(default_factory=dict)
    """Output ``[1, T, n, hidden]`` of the previous layer, by name."""
    shared: dict[str, np.ndarray] = field(default_factory=dict)
    """Caches of the owners that later layers read, as they were at this call."""


class LayeredDecoder:
    """A bound decoder, as :meth:`g3n_compiler.lower.opened.LayeredModel.run` runs it.

    Args:
        path: its flatbuffer is overwritten, so give a copy.
        size: a smaller size of an elastic bundle, whose shape is ``config``.
        opener: what runs a layer; by default XNNPACK on the CPU.
        only: the layers that ``opener`` runs besides the head, by default all; the CPU runs the others.
        adapter: inputs of a graph that takes a LoRA adapter; those that are not given are zeros.
    """

    def __init__(
        self,
        path: Path,
        config: TextConfig,
        size: str | None = None,
        opener: Opener | None = None,
        only: Collection[int] | None = None,
        adapter: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._model, self._opener = PartialModel(path), opener
        self._only = range(config.num_layers) if only is None else only
        self._config = config
        self._decode = signature_of(size, DECODE)
        shapes = self._model.input_shapes(self._decode)
        self._context = shapes["mask"][-1]
        self.ple_layers = shapes["per_layer_embeddings"][2]
        self._caches = {name: shape for name, shape in shapes.items() if name.startswith("kv_cache_")}
        self._adapter = zeros(shapes) | dict(adapter or {})
        self._size, prefix = size, signature_of(size, "prefill_")
        self._lengths = sorted(
            int(name.removeprefix(prefix)) for name in self._model.signatures if name.startswith(prefix)
        )
        self._read_later = {config.kv_owner(i) for i in range(config.num_kv_layers, config.num_layers)}

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        calls = self._schedule(embeddings, ple, prompt)
        for layer in range(self._config.num_layers):
            yield self._run_layer(layer, calls)
        decode = [call for call in calls if call.signature == self._decode]
        last = streams_name(self._config.num_layers - 1)
        head = self._model.partial(self._decode, [last], ["logits"], self._opener)
        yield np.concatenate([head(call.streams)["logits"][0] for call in decode])

    def _schedule(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> list[_Call]:
        """All of the prompt except its last token through prefill, the rest token by token through decode."""
        lengths = prefill_chunks(prompt - 1, self._lengths)
        chunks = [(n, signature_of(self._size, prefill_name(length)), length) for n, length in lengths]
        chunks += [(1, self._decode, 1)] * (len(embeddings) - (prompt - 1))
        calls, at = [], 0
        for count, signature, length in chunks:
            rows = slice(at, at + count)
            inputs = signature_inputs(embeddings[rows], ple[rows], at, length, self._context)
            calls.append(_Call(signature, count, inputs))
            at += count
        return calls

    def _run_layer(self, layer: int, calls: list[_Call]) -> np.ndarray:
        """Run every call through one layer; returns the streams ``[T, n, hidden]`` of those calls that continue after
        it.
        """
        last_owner = self._config.num_kv_layers - 1
        kv = [f"kv_cache_k_{layer}", f"kv_cache_v_{layer}"] if layer <= last_owner else []
        caches = {cache: np.zeros(self._caches[cache], np.float32) for cache in kv}
        name = streams_name(layer)
        part: Part | None = None
        opener, signature = self._opener if layer in self._only else None, ""
        out = []
        for call in calls:
            prefilling = call.signature != self._decode
            if prefilling and layer > last_owner:
                continue
            ends = layer == last_owner and prefilling
            if part is None or call.signature != signature:
                part, signature = None, call.signature
                part = self._model.partial(signature, self._known(layer), kv if ends else [name, *kv], opener)
            result = part(self._adapter | call.inputs | call.shared | call.streams | caches)
            caches = {cache: result[cache] for cache in kv}
            if layer in self._read_later:
                call.shared |= caches
            call.streams = {} if ends else {name: result[name]}
            if not ends:
                out.append(result[name][0, : call.count])
        return np.concatenate(out)

    def _known(self, layer: int) -> list[str]:
        """What layers below ``layer`` have computed: the last streams, and the caches that it may read."""
        shared = [f"kv_cache_{kind}_{owner}" for owner in sorted(self._read_later) if owner < layer for kind in "kv"]
        return [*([streams_name(layer - 1)] if layer else []), *shared]
