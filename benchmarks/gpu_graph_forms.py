"""What the forms that the GPU delegate wants of the decoder's graph cost on the CPU, which runs the same graph.

    python benchmarks/gpu_graph_forms.py WORK [--layers 5] [--rounds 20]

A random checkpoint with the widths of E2B is made in WORK, and its decoder converted as it ships and with each of these
forms undone, as the compiler wrote them before it knew of the GPU:

- the constant of AltUp's correction, which is repeated for each token, instead of made by arithmetic (BROADCAST_TO)
- the start of a cache update as four numbers instead of one tensor (RESHAPE to no axes)
- tokens as the first axis of AltUp's streams and of what linear layers pass on

All are given the same int4 weights and run by turns on one thread; times are medians of the processor's, which other
programs on the machine change little.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
import torch.nn.functional as F
from lab import save_random
from rich.console import Console
from torch import Tensor

from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.lower.isolated import isolated
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.batch_axis import restore_batch_axis
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.dialect import LiteRtDecoder
from g3n_compiler.lower.litert.text import LiteRtOps
from g3n_compiler.lower.signatures.text import DECODE, prefill_name, signatures, trace_inputs
from g3n_compiler.models.family import State, Streams
from g3n_compiler.models.gemma3n.text_config import TextConfig, gemma3n_config
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.source import TEXT, Source
from g3n_runtime.litert.text_loop import signature_inputs

CONTEXT, PREFILL = 1024, 128
REPETITIONS = 3
"""Calls of a signature in a turn."""


class FourNumbers(LiteRtOps):
    """The start of a cache update as four numbers."""

    def update(self, cache: Tensor, chunk: Tensor, start: Tensor, axis: int) -> Tensor:
        zero = torch.zeros((1,), dtype=torch.int32)
        starts = torch.cat([start if i == axis else zero for i in range(4)])
        updated: Tensor = torch.ops.litert_torch.dynamic_update_slice(cache, chunk, list(starts))
        return updated


class RepeatedConstant(LiteRtDecoder):
    """:meth:`LiteRtDecoder.advance` with its constant repeated for each token."""

    def advance(self, i: int, predicted: Streams, activated: Tensor, state: State) -> Streams:
        c = self.config
        coefs = F.linear(self._route(i, activated), self.weights.tensor(f"layers.{i}.altup.correction_coefs")) + 1.0
        before = self.active(predicted)
        innovation = activated - before
        corrected = before + innovation * coefs[..., c.altup_active_idx : c.altup_active_idx + 1]
        injected = self.inject_ple(i, corrected, state)
        passive = torch.ones(1, 1, c.altup_num_inputs, 1)
        passive[:, :, 0] = 0
        own = coefs.view(1, -1, c.altup_num_inputs, 1)
        factors = torch.cat((own, passive.expand(own.shape)), 3)
        added = torch.cat([x.view(1, -1, 1, c.hidden_size) for x in (innovation, injected)], 2)
        return predicted + torch.ops.tfl.batch_matmul(factors, added)


class TokensFirst(LiteRtDecoder):
    """Streams as ``[T, altup_num_inputs, hidden]``."""

    def join(self, *streams: Tensor) -> Streams:
        return torch.cat([s.view(-1, 1, self.config.hidden_size) for s in streams], 1)

    def predict(self, i: int, streams: Streams) -> Streams:
        n = self.config.altup_num_inputs
        routed = self._route(i, self.active(streams))
        coefs = F.linear(routed, self.weights.tensor(f"layers.{i}.altup.prediction_coefs")).view(-1, n, n)
        return streams + torch.bmm(coefs, streams)

    def advance(self, i: int, predicted: Streams, activated: Tensor, state: State) -> Streams:
        c = self.config
        coefs = F.linear(self._route(i, activated), self.weights.tensor(f"layers.{i}.altup.correction_coefs")) + 1.0
        before = self.active(predicted)
        innovation = activated - before
        corrected = before + innovation * coefs[..., c.altup_active_idx : c.altup_active_idx + 1]
        injected = self.inject_ple(i, corrected, state)
        passive = torch.ones(1, c.altup_num_inputs, 1)
        passive[:, 0] = 0
        own = coefs.view(-1, c.altup_num_inputs, 1)
        factors = torch.cat((own, own * 0.0 + passive), 2)
        added = torch.cat([x.view(-1, 1, c.hidden_size) for x in (innovation, injected)], 1)
        return predicted + torch.bmm(factors, added)

    def _stream(self, streams: Tensor, a: int) -> Tensor:
        return streams[:, a : a + 1].reshape(1, -1, self.config.hidden_size)


class Form(NamedTuple):
    """How a graph is converted."""

    name: str
    decoder: type[LiteRtDecoder] = LiteRtDecoder
    ops: type[LiteRtOps] = LiteRtOps
    restores_axis: bool = True


FORMS = (
    Form("as it ships"),
    Form("constant repeated", decoder=RepeatedConstant),
    Form("start of four numbers", ops=FourNumbers),
    Form("tokens first", decoder=TokensFirst, restores_axis=False),
)


def write(checkpoint: Path, form: Form, path: Path) -> int:
    """Write the decoder in ``form`` with its weights; returns the number of operators of a decode step."""
    import litert_torch

    source = Source.open(checkpoint, modalities=(TEXT,))
    config = gemma3n_config(source.text)
    litert_torch.config.show_progress = False
    converter = litert_torch.Converter()
    for name, (module, length) in signatures(config, [PREFILL], form.ops(), form.decoder, layer_outputs=True).items():
        converter.signature(name, module, sample_kwargs=dict(trace_inputs(module, CONTEXT, length)))
    with torch.no_grad():
        model = flatbuffer.parse(converter.convert().model_content())
    if form.restores_axis:
        restore_batch_axis(model)
    bind(flatbuffer.pack(model), text_weights(config), RECIPES["int4"], source.read, path)
    place = next(d.subgraphIndex for d in model.signatureDefs if d.signatureKey.decode() == DECODE)
    return len(model.subgraphs[place].operators)


class Runner:
    """A graph on the CPU, at the end of a full context."""

    def __init__(self, path: Path, config: TextConfig) -> None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._calls: dict[str, tuple[Any, dict[str, np.ndarray]]] = {}
        for name, length in ((prefill_name(PREFILL), PREFILL), (DECODE, 1)):
            call = interpreter.get_signature_runner(name)
            generator = np.random.default_rng(0)
            rows = generator.standard_normal((length, config.hidden_size), np.float32)
            ple = generator.standard_normal((length, config.num_layers, config.ple_dim), np.float32)
            shapes = {n: d["shape"] for n, d in call.get_input_details().items() if n.startswith("kv_cache_")}
            caches = {n: generator.standard_normal(tuple(s), np.float32) for n, s in shapes.items()}
            inputs = signature_inputs(rows, ple, CONTEXT - length, length, CONTEXT)
            self._calls[name] = call, inputs | caches

    def run(self, name: str) -> tuple[float, dict[str, np.ndarray]]:
        """The processor's seconds for a call, and what it gave."""
        call, inputs = self._calls[name]
        start = time.process_time()
        for _ in range(REPETITIONS):
            found = call(**inputs)
        return (time.process_time() - start) / REPETITIONS, found


def shape(layers: int) -> dict[str, Any]:
    """``layers`` of E2B's width, the last of which share their KV caches and one of which sees the whole context."""
    return {
        "vocab_size": 4352, "vocab_size_per_layer_input": 4096, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": layers, "layer_types": ["sliding_attention"] * (layers - 1) + ["full_attention"],
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "hidden_size_per_layer_input": 256,
        "laurel_rank": 64, "sliding_window": 512, "num_kv_shared_layers": 0, "max_position_embeddings": 32768,
        "activation_sparsity_pattern": [0.95] * (layers // 2) + [0.0] * (layers - layers // 2),
    }  # fmt: skip


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--layers", default=5, show_default=True, help="Of a true width.")
@click.option("--rounds", default=20, show_default=True)
@reports_errors
def main(work: Path, layers: int, rounds: int) -> None:
    """Convert, run by turns and print the table."""
    console, checkpoint = Console(width=140, highlight=False), work / f"forms-{layers}"
    if not checkpoint.exists():
        save_random(checkpoint.with_suffix(".partial"), shape(layers)).close()
        checkpoint.with_suffix(".partial").rename(checkpoint)
    config = gemma3n_config(Source.open(checkpoint, modalities=(TEXT,)).text)
    with tempfile.TemporaryDirectory(dir=work) as folder, quiet_toolchains():
        paths = [Path(folder) / f"{i}.tflite" for i in range(len(FORMS))]
        operators = [isolated(write, checkpoint, form, path) for form, path in zip(FORMS, paths, strict=True)]
        runners = [Runner(path, config) for path in paths]
        medians: dict[str, list[float]] = {}
        for name in (prefill_name(PREFILL), DECODE):
            medians[name] = _by_turns(runners, name, rounds)
    console.print(f"| form | operators | {' | '.join(f'{name} ms' for name in medians)} | ratios to what ships |")
    console.print("|---|---|---|---|---|")
    for i, form in enumerate(FORMS):
        times = " | ".join(f"{1000 * found[i]:.1f}" for found in medians.values())
        ratios = ", ".join(f"{found[i] / found[0]:.3f}" for found in medians.values())
        console.print(f"| {form.name} | {operators[i]:,} | {times} | {ratios} |")


def _by_turns(runners: Sequence[Runner], name: str, rounds: int) -> list[float]:
    """Median seconds of each runner; they must agree on what they compute."""
    want = runners[0].run(name)[1]
    for runner in runners[1:]:
        for key, value in runner.run(name)[1].items():
            np.testing.assert_allclose(value, want[key], rtol=1e-2, atol=1e-2 * float(np.abs(want[key]).max()))
    times = [[runner.run(name)[0] for runner in runners] for _ in range(rounds)]
    return [statistics.median(row[i] for row in times) for i in range(len(runners))]


if __name__ == "__main__":
    main()
