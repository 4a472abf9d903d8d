"""Our bundles beside llama.cpp and the machine's own limits: speed, first token, load, memory, bytes, in one table.

    python benchmarks/peers.py exported/e2b-host-int4 --gguf e2b-q4_0.gguf --llama-bench llama.cpp/build/bin/llama-bench

Of each bundle every runtime is measured. Every figure comes from a fresh process; peers take turns, round by round, so
that a slow minute of the machine falls on all of them. Make the ``.gguf`` from the same checkpoint with llama.cpp's
``convert_hf_to_gguf.py`` and ``llama-quantize``; PyPI's ``llama-cpp-python`` ships their source.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
import numpy as np
import onnx
import torch
from lab import seconds_of
from matplotlib.figure import Figure
from onnx import TensorProto
from rich.console import Console

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.cli.options import MOST_TOKENS, IntegerList
from g3n_compiler.errors import ContextError, G3nError
from g3n_runtime.bundle import open_bundle
from g3n_runtime.measure import PeakMemory, measure_bundle, watch

GB = 1e9
PROMPTS = (128, 512, 1024, 3968)
"""Tokens; the last fills a context of 4096 but for what is decoded."""
DECODED = 32
READ_BYTES = 1 << 30
LIMIT_ROUNDS = 5
ROWS, INNER, OUTER = 1024, 2048, 8192
"""Of the int8 product that the machine's peak is taken from: a prompt through one FFN of E2B."""
OPSET, IR_VERSION = 17, 9
"""Of ONNX, for that product."""


@dataclass(frozen=True)
class Run:
    """One process: ``prompt`` tokens in, :data:`DECODED` out."""

    prompt: int
    prefill_per_second: float
    decode_per_second: float
    first_token_seconds: float
    load_seconds: float
    memory: PeakMemory
    interpreter: int = 0
    """Of the memory, what is Python's own and no engine's."""


@dataclass
class Peer:
    """Something that is measured: ``measure(prompt)`` is a run in a fresh process."""

    name: str
    nbytes: int
    measure: Callable[[int], Run]
    foreseen: tuple[int, int] | None = None
    """Peak bytes of the first and of later runs by the manifest's ledger, which leaves Python out."""
    first: Run | None = None
    """The run that may write a weight cache, which is in no other figure."""
    runs: list[Run] = field(default_factory=list)

    def of(self, prompt: int) -> list[Run]:
        return [run for run in self.runs if run.prompt == prompt]


def bundle_peers(directory: Path, prompts: Sequence[int], threads: int) -> list[Peer]:
    """Every runtime of the bundle in ``directory``."""
    bundle = open_bundle(directory)
    if (needed := max(prompts) + DECODED) > bundle.manifest["context"]:
        raise ContextError(
            f"{directory.name} was compiled for {bundle.manifest['context']} tokens, {needed} are needed: "
            "compile it with --context, or ask for shorter --prompts"
        )

    def peer(runtime: str) -> Peer:
        def measure(prompt: int) -> Run:
            m = measure_bundle(bundle, runtime, prompt, DECODED, threads)
            s = m.speed
            rates = s.prefill_per_second, s.decode_per_second
            return Run(prompt, *rates, s.first_token_seconds, s.load_seconds, m.memory, m.interpreter)

        # One file is LiteRT's; all others are ExecuTorch's.
        own = [f["bytes"] for f in bundle.manifest["files"] if (f["role"] == "litertlm") == (runtime == "litert")]
        ledger = bundle.manifest["memory"][runtime]
        later = max(ledger["peak"][phase] for phase in ("load", "prefill", "decode"))
        foreseen = ledger.get("first_run", {}).get("peak", later), later
        return Peer(f"g3n {bundle.manifest['recipe']['name']}, {runtime}", sum(own), measure, foreseen)

    return [peer(runtime) for runtime in bundle.runtimes]


def llama_peer(program: Path, model: Path, threads: int) -> Peer:
    """llama.cpp's own benchmark of ``model``, once for the prompt and once for what follows it."""

    def measure(prompt: int) -> Run:
        command = [str(program), "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json"]
        started = time.perf_counter()
        _llama([*command, "-p", "1", "-n", "0", "--no-warmup"])
        load = time.perf_counter() - started
        prefill, memory = _llama([*command, "-p", str(prompt), "-n", "0"])
        decode, longer = _llama([*command, "-p", "0", "-n", str(DECODED), "-d", str(prompt)])
        first = prompt / prefill["avg_ts"] + 1 / decode["avg_ts"]
        return Run(prompt, prefill["avg_ts"], decode["avg_ts"], first, load, _larger(memory, longer))

    return Peer("llama.cpp Q4_0", model.stat().st_size, measure)


def _llama(command: Sequence[str]) -> tuple[dict[str, float], PeakMemory]:
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    memory = watch(child)
    said, complaints = child.communicate()
    if child.returncode != 0:
        raise G3nError(f"llama-bench failed: {complaints.strip()[-300:]}")
    result: dict[str, float] = json.loads(said)[0]
    return result, memory


def _larger(a: PeakMemory, b: PeakMemory) -> PeakMemory:
    return a if a.total >= b.total else b


def limits(threads: int) -> tuple[float, float]:
    """Bytes read and int8 operations done per second, best of five."""
    torch.set_num_threads(threads)
    block = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    read = min(seconds_of(lambda: block.sum(), LIMIT_ROUNDS))
    weight = onnx.numpy_helper.from_array(np.ones((INNER, OUTER), np.int8), "b")
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (("a", TensorProto.UINT8, (ROWS, INNER)), ("y", TensorProto.INT32, (ROWS, OUTER)))
    ]
    node = onnx.helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = onnx.helper.make_graph([node], "product", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    import onnxruntime  # after g3n, which switches its telemetry off

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    a = np.ones((ROWS, INNER), np.uint8)
    product = min(seconds_of(lambda: session.run(None, {"a": a}), LIMIT_ROUNDS))
    return READ_BYTES / read, 2 * ROWS * INNER * OUTER / product


def table(peers: Sequence[Peer], prompts: Sequence[int]) -> list[str]:
    """Lines of Markdown; medians of the rounds, except for memory, whose worst counts."""
    ends = prompts[0], prompts[-1]
    head = ["", *(f"prefill {n}" for n in prompts), *(f"decode at {n}" for n in ends), f"first token of {ends[1]} s"]
    head += ["load first / later s", "peak first / later GB", "of it Python's", "by the ledger", "anonymous"]
    head.append("file GB")
    lines = [_row(head), "|" + "---|" * len(head)]
    for peer in peers:
        assert peer.first is not None
        cells = [peer.name, *(f"{median(r.prefill_per_second for r in peer.of(n)):.0f}" for n in prompts)]
        cells += [f"{median(r.decode_per_second for r in peer.of(n)):.1f}" for n in ends]
        cells.append(f"{median(r.first_token_seconds for r in peer.of(ends[1])):.1f}")
        cells.append(f"{peer.first.load_seconds:.1f} / {median(r.load_seconds for r in peer.runs):.1f}")
        largest = max(peer.runs, key=lambda run: run.memory.total)
        cells.append(f"{peer.first.memory.total / GB:.2f} / {largest.memory.total / GB:.2f}")
        cells.append(f"{largest.interpreter / GB:.2f}")
        cells.append("" if peer.foreseen is None else " / ".join(f"{n / GB:.2f}" for n in peer.foreseen))
        lines.append(_row([*cells, f"{largest.memory.anonymous / GB:.2f}", f"{peer.nbytes / GB:.2f}"]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(peers: Sequence[Peer], path: Path) -> None:
    """Prefill and decode over the prompt's length, each run a point."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("prefill", "decode"), strict=True):
        for peer in peers:
            points = [(r.prompt, getattr(r, f"{what}_per_second")) for r in peer.runs]
            axes.plot(*zip(*sorted(points), strict=True), ".", label=peer.name)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens of prompt")
        axes.set_ylabel(f"{what} tok/s")
    axes.legend(frameon=False)
    figure.savefig(path)


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--gguf", type=click.Path(path_type=Path, exists=True), help="llama.cpp's model.")
@click.option("--llama-bench", type=click.Path(path_type=Path, exists=True), help="llama.cpp's program.")
@click.option("--prompts", type=IntegerList(1, MOST_TOKENS), default=PROMPTS, show_default="128,512,1024,3968")
@click.option("--rounds", default=2, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Where to draw the speeds (.svg, .png).")
@reports_errors
def main(
    bundles: tuple[Path, ...],
    gguf: Path | None,
    llama_bench: Path | None,
    prompts: tuple[int, ...],
    rounds: int,
    threads: int,
    picture: Path | None,
) -> None:
    """Measure BUNDLES, and llama.cpp where --gguf and --llama-bench say what to run."""
    console = Console(width=200, highlight=False)
    # What engines keep begins empty, and is kept from run to run.
    cache = tempfile.TemporaryDirectory(prefix="g3n-peers-")
    os.environ["G3N_CACHE_DIR"] = cache.name
    peers = [peer for bundle in bundles for peer in bundle_peers(bundle, prompts, threads)]
    if (gguf is None) != (llama_bench is None):
        raise click.UsageError("--gguf and --llama-bench go together")
    if gguf is not None and llama_bench is not None:
        peers.append(llama_peer(llama_bench, gguf, threads))
    read, product = limits(threads)
    console.print(f"this machine, {threads} threads: {read / GB:.1f} GB/s read, {product / 1e12:.2f} int8 TOPS\n")
    for peer in peers:
        peer.first = peer.measure(prompts[0])
        console.print(f"{peer.name}: first run done")
    for turn in range(rounds):
        for prompt in prompts:
            for peer in peers:
                run = peer.measure(prompt)
                peer.runs.append(run)
                console.print(
                    f"round {turn + 1}, {prompt} tokens, {peer.name}: prefill {run.prefill_per_second:.0f}, "
                    f"decode {run.decode_per_second:.1f} tok/s, peak {run.memory.total / GB:.2f} GB"
                )
    for line in table(peers, prompts):
        console.print(line, soft_wrap=True)
    if picture is not None:
        plot(peers, picture)


if __name__ == "__main__":
    main()
