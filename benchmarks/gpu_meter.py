"""What a bundle asks of a GPU: memory when its decoder is loaded, kernels and copies for a prompt and for each token.

    python benchmarks/gpu_meter.py exported/nano-pixel-int4 [--through engine|delegate] [--no-calls]

Needs gcc and ``make gpu-kit``. A Vulkan loader that counts (``vulkan_meter.c``) is put in front of the
real one: device memory, kernels that are dispatched, buffers that are copied. It also waits for the driver as long as
that takes, where a delegate would give up after ten seconds. All of that is the delegate's own doing
and the same on any driver; with a driver in software the device's memory is this process's too, so what is resident
besides it are the copies that the delegate leaves in the CPU's memory.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from lab import resident_bytes
from rich.console import Console

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.lower.litert.container import extract
from g3n_runtime.bundle import open_bundle
from g3n_runtime.errors import EngineError
from g3n_runtime.litert.vulkan import DESCRIPTION, KIT, KIT_VARIABLE, LOADER, find_driver

SOURCE = Path(__file__).with_name("vulkan_meter.c")
COUNTERS = ("memory", "peak", "kernels", "submits", "copies", "copied", "largest")
"""In the order of the file that ``vulkan_meter.c`` writes."""
SIZE = 64
PROMPT, TOKENS = "the of and to a in that is the of and to a in that is", 8
"""What the engine continues, and by how many tokens after the first."""
MIB = 1 << 20


class Meter:
    """Counts what this process asks of the driver. Open it before anything that uses the driver is loaded."""

    def __init__(self, folder: Path) -> None:
        kit = Path(os.environ.get(KIT_VARIABLE) or KIT)
        if find_driver() is None or not (kit / LOADER).is_file():
            raise EngineError("the meter wraps the software driver's loader, and there is none: make gpu-kit")
        shutil.copy(kit / DESCRIPTION, folder)
        described = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        (folder / Path(described["ICD"]["library_path"]).name).symlink_to(
            (kit / described["ICD"]["library_path"]).resolve()
        )
        flags = ["-O1", "-shared", "-fPIC", f"-Wl,-soname,{LOADER}"]
        subprocess.run(["gcc", *flags, "-o", str(folder / LOADER), str(SOURCE), "-ldl", "-lpthread"], check=True)
        counts = folder / "counts"
        counts.write_bytes(bytes(SIZE))
        with counts.open("r+b") as file:
            self._counts = mmap.mmap(file.fileno(), SIZE)
        os.environ["G3N_METER_LOADER"] = str((kit / LOADER).resolve())
        os.environ["G3N_METER_FILE"] = str(counts)
        os.environ[KIT_VARIABLE] = str(folder)

    def read(self) -> dict[str, int]:
        return dict(zip(COUNTERS, struct.unpack(f"<{len(COUNTERS)}Q", self._counts[: 8 * len(COUNTERS)]), strict=True))


def through_engine(console: Console, meter: Meter, packed: Path, answers: Sequence[int]) -> None:
    """The stock engine: its first token shows the prompt, the ones after it what a token takes.

    Args:
        answers: tokens of each answer: none to load it only, 1 for a prompt, and a longer one for further tokens.
    """
    from g3n_runtime.chat import GREEDY, Placement
    from g3n_runtime.litert.engine import LiteRtEngine

    before = resident_bytes()
    with LiteRtEngine(packed, placement=Placement("gpu")) as engine:
        _tell(console, "loaded", meter, before)
        counts = [meter.read()]
        for tokens in answers:
            "".join(engine.complete(PROMPT, GREEDY, tokens))
            counts.append(meter.read())
        if answers:
            _tell(console, "after an answer", meter, before)
    found = [{name: now[name] - was[name] for name in COUNTERS} for was, now in itertools.pairwise(counts)]
    if found:
        first = found[0]
        console.print(f"a prompt and its first token: {first['kernels']:,} kernels in {first['submits']} submissions")
    for tokens, both in zip(answers[1:], found[1:], strict=True):
        each = {name: (both[name] - first[name]) / (tokens - answers[0]) for name in COUNTERS}
        console.print(f"each further token: {each['kernels']:,.0f} kernels, {each['copied']:,.0f} bytes copied")


def _through_delegate(console: Console, meter: Meter, core: Path, calls: bool) -> None:
    """The delegate as a compile runs it: each signature by itself."""
    from g3n_runtime.litert.gpu import GpuModel
    from g3n_runtime.litert.vulkan import require_driver

    before = resident_bytes()
    require_driver().use()
    model = GpuModel(core)
    _tell(console, "loaded", meter, before)
    for signature in model.signatures if calls else ():
        inputs = {
            name: np.zeros(shape, np.int32 if name == "input_pos" else np.float32)
            for name, shape in model.shapes(signature).items()
        }
        model.call(signature, inputs)
        was = meter.read()
        model.call(signature, inputs)
        found = {name: n - was[name] for name, n in meter.read().items()}
        console.print(
            f"{signature}: {found['kernels']:,} kernels in {found['submits']} submissions, "
            f"{found['copied'] / MIB:,.2f} MiB copied"
        )
        _tell(console, f"after {signature}", meter, before)


def _tell(console: Console, when: str, meter: Meter, before: dict[str, int]) -> None:
    counts, resident = meter.read(), resident_bytes()
    anonymous, files = ((resident[name] - before[name]) / MIB for name in ("RssAnon", "RssFile"))
    device, peak = counts["memory"] / MIB, counts["peak"] / MIB
    console.print(
        f"{when}: {device:,.1f} MiB of device memory, at most {peak:,.1f}; besides it {anonymous - device:,.1f} MiB "
        f"anonymous and {files:,.1f} of files in the CPU's"
    )


@click.command()
@click.argument("directory", metavar="BUNDLE", type=click.Path(path_type=Path, exists=True))
@click.option("--through", type=click.Choice(["engine", "delegate"]), default="engine", show_default=True)
@click.option("--no-calls", is_flag=True, help="Only load it: a large one takes minutes for a call.")
@reports_errors
def main(directory: Path, through: str, no_calls: bool) -> None:
    """Load BUNDLE's decoder on the GPU and use it."""
    packed, console = open_bundle(directory).file("litertlm"), Console(width=160, highlight=False)
    with tempfile.TemporaryDirectory(prefix="g3n-meter-") as scratch:
        meter = Meter(Path(scratch))
        if through == "engine":
            through_engine(console, meter, packed, () if no_calls else (1, 1 + TOKENS))
        else:
            extract(packed, "prefill_decode", core := Path(scratch) / "core.tflite")
            _through_delegate(console, meter, core, not no_calls)


if __name__ == "__main__":
    main()
