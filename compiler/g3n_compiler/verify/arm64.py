"""Parity on Arm: a bundle's subgraphs under the official aarch64 runtimes, emulated, against the same bundle here.

The kit (``make arm64-kit``) is a folder with an emulator, a small aarch64 system, the runtimes' aarch64 wheels and our
two runners. Emulation is slow: it is meant for bundles of the size of nano.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import NoReturn

import numpy as np

import g3n_runtime
from g3n_compiler.bundle.litertlm import extract
from g3n_compiler.errors import EngineError
from g3n_compiler.lower.backend import Job, TextModel
from g3n_compiler.lower.executorch.backend import ENTRY_POINTS
from g3n_compiler.lower.litert.extracted import SECTIONS
from g3n_compiler.lower.registry import get_backend
from g3n_compiler.targets import Runtime, Subgraph
from g3n_compiler.verify.golden import GENERATED, Golden, golden_inputs
from g3n_compiler.verify.parity import EXACT, MARGIN, Check, Parity, greedy_margin, relative_error
from g3n_runtime.bundle import Bundle
from g3n_runtime.executorch import ROLES
from g3n_runtime.executorch_model import ExecuTorchModel, ExecuTorchParts
from g3n_runtime.terminal import printable_line

REFERENCE = "the same file on this machine"
CPU = "cortex-a76"
TIMEOUT = 1800
LAST_WORDS = 4096
"""Bytes of what a program said that are looked at for its reason."""


_UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What reading files that a runner left half done or wrong can end in."""


@dataclass(frozen=True)
class ArmKit:
    """Where the emulated machine lies.

    Raises:
        EngineError: something of it is missing.
    """

    directory: Path

    def __post_init__(self) -> None:
        needed = (self.qemu, self.python, self.litert_runner, self.executorch_runner, self.site / "numpy")
        if missing := [path for path in needed if not path.exists()]:
            raise EngineError(f"{missing[0]} is missing: make the kit with make arm64-kit, or name it with --kit")

    @property
    def qemu(self) -> Path:
        return self.directory / "qemu-aarch64"

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    @property
    def site(self) -> Path:
        """The aarch64 wheels, unpacked."""
        return self.directory / "site"

    @property
    def python(self) -> Path:
        return self.tree / "usr" / "bin" / "python3.11"

    @property
    def litert_runner(self) -> Path:
        return self.directory / "litert_run.py"

    @property
    def executorch_runner(self) -> Path:
        return self.directory / "g3n_executorch_run"

    def run(self, program: Path, arguments: Sequence[Path | str], environment: dict[str, str]) -> None:
        """Run an aarch64 ``program``; raises :class:`EngineError` with its last words when it fails."""
        settings = [word for name, value in environment.items() for word in ("-E", f"{name}={value}")]
        command = [self.qemu, "-cpu", CPU, "-L", self.tree, *settings, program, *arguments]
        words = [str(word) for word in command]
        # A file, of which the end is read: what a program prints may be more than fits into memory.
        with tempfile.TemporaryFile() as said:
            try:
                code = subprocess.run(words, stdout=DEVNULL, stderr=said, timeout=TIMEOUT, check=False).returncode
            except subprocess.TimeoutExpired:
                raise EngineError(f"{program.name} took more than {TIMEOUT} s under the emulator") from None
            except OSError as error:
                raise EngineError(f"{self.qemu} cannot be run ({error.strerror}): make the kit anew") from None
            if code != 0:
                said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS))
                last = said.read().decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {code}"]
                raise EngineError(f"{program.name} failed under the emulator: {printable_line(last[0])}")


@dataclass(frozen=True)
class Outputs:
    """What a subgraph gave for the golden inputs; tables are ``None`` where they cannot be read by themselves."""

    logits: list[np.ndarray]
    prefilled: list[np.ndarray]
    greedy: list[int]
    embeddings: np.ndarray | None = None
    ple: np.ndarray | None = None


def verify_arm64(job: Job, bundle: Bundle, kit: ArmKit) -> Parity:
    """Compare every subgraph of ``bundle`` on aarch64 with itself here; returns all results, passed or not."""
    parity = Parity()
    golden = golden_inputs(job.tokenizer, job.config, job.context)
    rows = _table_ids(job)
    with tempfile.TemporaryDirectory(prefix="g3n-arm64-") as scratch:
        for name in bundle.runtimes:
            runtime: Runtime = "litert" if name == "litert" else "executorch"
            for entry, model in get_backend(runtime).open_models(bundle.directory):
                job.progress(f"{runtime} {entry}: this machine")
                here = _run_here(model, golden, rows)
                job.progress(f"{runtime} {entry}: aarch64, emulated")
                if runtime == "litert":
                    there = _litert_there(kit, bundle, golden, rows, Path(scratch))
                else:
                    there = _executorch_there(kit, bundle, entry, model, golden, Path(scratch))
                parity.checks += _checks(job, runtime, entry, golden, here, there, model)
    return parity


def _table_ids(job: Job) -> list[int]:
    """Ids at both ends of the vocabulary and on either side of where the per-layer table ends."""
    c = job.config
    return sorted({0, 1, c.bos_id, c.ple_vocab_size - 1, min(c.ple_vocab_size, c.vocab_size - 1), c.vocab_size - 1})


def _run_here(model: TextModel, golden: Sequence[Golden], rows: Sequence[int]) -> Outputs:
    return Outputs(
        [model.logits(g.ids) for g in golden],
        [model.prefilled_logits(g.ids, g.prompt) for g in golden],
        model.greedy(golden[0].ids, GENERATED),
        model.embeddings(rows),
        model.ple(rows),
    )


def _litert_there(kit: ArmKit, bundle: Bundle, golden: Sequence[Golden], rows: Sequence[int], scratch: Path) -> Outputs:
    parts = []
    for kind in SECTIONS.values():
        parts.append(scratch / f"{kind}.tflite")
        extract(bundle.file("litertlm"), kind, parts[-1])
    request = {
        "parts": [str(part) for part in parts],
        "texts": [{"ids": list(g.ids), "prompt": g.prompt} for g in golden],
        "rows": list(rows),
        "greedy": {"ids": list(golden[0].ids), "count": GENERATED},
    }
    asked, answered = scratch / "request.json", scratch / "result.npz"
    asked.write_text(json.dumps(request), encoding="utf-8")
    packages = Path(g3n_runtime.__file__).parents[1]
    environment = {
        "PYTHONHOME": str(kit.tree / "usr"),
        "PYTHONPATH": f"{kit.site}:{packages}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    kit.run(kit.python, [kit.litert_runner, asked, answered], environment)
    return _litert_answers(answered, len(golden))


def _litert_answers(path: Path, count: int) -> Outputs:
    try:
        with np.load(path, allow_pickle=False) as result:
            if (machine := str(result["machine"])) != "aarch64":
                raise EngineError(f"the emulated interpreter runs on {machine[:40]}, not aarch64: make the kit anew")
            return Outputs(
                [result[f"logits_{i}"] for i in range(count)],
                [result[f"prefilled_{i}"] for i in range(count)],
                [int(token) for token in result["greedy"]],
                result["embeddings"],
                result["ple"],
            )
    except _UNREADABLE as error:
        _unreadable(path, error)


def _unreadable(path: Path, error: Exception) -> NoReturn:
    raise EngineError(
        f"the emulated runner left no answers that can be read ({path.name}: {printable_line(str(error))[:200]}): make "
        "the kit anew"
    ) from None


def _executorch_there(
    kit: ArmKit, bundle: Bundle, entry: str, model: TextModel, golden: Sequence[Golden], scratch: Path
) -> Outputs:
    program, tables = bundle.file(ROLES["model"]), bundle.file(ROLES["tables"])
    chunk, vocabulary = _limits(ExecuTorchParts(program, tables))
    rows: Path | str = "-"
    if entry == ENTRY_POINTS[0]:
        # This method takes embedding rows, which on a phone are read by the app.
        rows = scratch / "rows.f32"
        ids = range(vocabulary)
        np.concatenate((model.embeddings(ids), model.ple(ids)), -1).astype("<f4").tofile(rows)
    script, logits, tokens = scratch / "script.txt", scratch / "logits.f32", scratch / "tokens.txt"
    lines, counts = [], []
    for g in golden:
        lines += [f"run {position} {token}" for position, token in enumerate(g.ids)]
        prefill = list(_prefill_lines(g.ids[: g.prompt], chunk))
        rest = [f"run {g.prompt + i} {token}" for i, token in enumerate(g.ids[g.prompt :])]
        lines += [*prefill, *rest]
        counts.append((len(g.ids), len(prefill) - 1, len(rest) + 1))
    lines += [*_prefill_lines(golden[0].ids, chunk), f"greedy {GENERATED}"]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    libraries = {"LD_LIBRARY_PATH": str(kit.site / "executorch" / "lib")}
    kit.run(kit.executorch_runner, [program, tables, entry, rows, script, logits, tokens], libraries)
    try:
        values = np.fromfile(logits, "<f4").reshape(-1, vocabulary)
        greedy = [int(line) for line in tokens.read_text(encoding="utf-8").split()]
        if (rows_expected := sum(sum(count) for count in counts)) > len(values):
            raise ValueError(f"{len(values)} rows, expected {rows_expected}")
    except _UNREADABLE as error:
        _unreadable(logits, error)
    decoded, prefilled, at = [], [], 0
    for length, before, after in counts:
        decoded.append(values[at : at + length])
        at += length + before
        prefilled.append(values[at : at + after])
        at += after
    return Outputs(decoded, prefilled, greedy)


def _limits(parts: ExecuTorchParts) -> tuple[int, int]:
    """Longest chunk and vocabulary of the program."""
    model = ExecuTorchModel(parts)
    return model.chunk, model.vocab_size


def _prefill_lines(ids: Sequence[int], chunk: int) -> Iterator[str]:
    for begin in range(0, len(ids), chunk):
        yield f"run {begin} {' '.join(str(token) for token in ids[begin : begin + chunk])}"


def _checks(
    job: Job, runtime: Runtime, entry: str, golden: Sequence[Golden], here: Outputs, there: Outputs, model: TextModel
) -> Iterator[Check]:
    exact = job.recipe.name == "fp32"
    # Activations are quantised on the fly: other vector units round some of them to the other side, and the logits move
    # by as much as the recipe allows them to.
    limit = EXACT if exact else job.recipe.logit_tolerance

    def check(what: str, subgraph: Subgraph, metric: str, value: float, most: float, note: str = "") -> Check:
        return Check(f"{entry}: {what}", subgraph, runtime, REFERENCE, metric, value, most, note)

    errors = []
    for g, ours, theirs in zip(golden, here.logits, there.logits, strict=True):
        errors.append(relative_error(theirs, ours))
        yield check(f"{len(g.ids)} tokens decoded, {g.name}", "core", "relative error", errors[-1], limit)
    for g, ours, theirs in zip(golden, here.prefilled, there.prefilled, strict=True):
        what = f"{g.prompt} tokens prefilled, {g.name}"
        yield check(what, "core", "relative error", relative_error(theirs, ours), limit)
    same = sum(a == b for a, b in zip(here.greedy, there.greedy, strict=False))
    note = f"{same} of {GENERATED} the same"
    margin = greedy_margin(there.greedy, here.greedy, _margins(model, golden[0].ids, here.greedy))
    reach = 2 * max(errors) * float(np.abs(here.logits[0]).max())
    yield check(
        f"{GENERATED} greedy tokens", "core", "margin at first difference", margin, MARGIN if exact else reach, note
    )
    tables: tuple[tuple[Subgraph, np.ndarray | None, np.ndarray | None], ...] = (
        ("token_embedding", here.embeddings, there.embeddings),
        ("per_layer_embedding", here.ple, there.ple),
    )
    for subgraph, table, copy in tables:
        if table is not None and copy is not None:
            yield check(f"{len(table)} rows", subgraph, "relative error", relative_error(copy, table), EXACT)


def _margins(model: TextModel, ids: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Distance of the best two logits at each of ``tokens``, generated after ``ids``."""
    logits = model.logits([*ids, *tokens[:-1]])[len(ids) - 1 :]
    best = np.sort(logits, -1)[:, -2:]
    return [float(m) for m in best[:, 1] - best[:, 0]]
