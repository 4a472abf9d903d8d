"""XNNPACK's weights cache as ExecuTorch's builds for Android and Apple have it, switched on in a process of its own.

Python has no call for it, so the exported C++ function is called: ``set_option(const char*, Span<BackendOption>)``. An
option is a key of 64 bytes and a ``variant<bool, int, array<char, 256>>``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

SWITCH_ON = """
import ctypes, sys
from pathlib import Path
import executorch, numpy as np, torch
from executorch.runtime import Runtime
import executorch.kernels.quantized

class Option(ctypes.Structure):
    _fields_ = [("key", ctypes.c_char * 64), ("value", ctypes.c_ubyte * 256), ("kind", ctypes.c_uint32)]

class Options(ctypes.Structure):
    _fields_ = [("first", ctypes.POINTER(Option)), ("count", ctypes.c_size_t)]

library = ctypes.CDLL(str(Path(list(executorch.__path__)[0]) / "lib" / "libexecutorch.so"))
switch = library._ZN10executorch7runtime10set_optionEPKcNS0_4SpanINS0_13BackendOptionEEE
switch.argtypes, switch.restype = [ctypes.c_char_p, Options], ctypes.c_uint32
option = Option(b"weight_cache_enabled")
option.value[0] = ON
assert switch(b"XnnpackBackend", Options(ctypes.pointer(option), 1)) == 0
program, tables, method, inputs, outputs = sys.argv[1:]
loaded = Runtime.get().load_program(program, data_path=tables or None).load_method(method)
given = [torch.from_numpy(x) for x in np.load(inputs).values()]
np.savez(outputs, *(x.numpy() for x in loaded.execute(given)))
"""


def run_with_cache(
    program: Path, tables: Path | None, method: str, inputs: list[np.ndarray], folder: Path, on: bool = True
) -> list[np.ndarray]:
    """What ``method`` gives in a process whose XNNPACK caches weights, or does not."""
    given, gave = folder / "inputs.npz", folder / "outputs.npz"
    np.savez(given, *inputs)
    words = [str(program), "" if tables is None else str(tables), method, str(given), str(gave)]
    script = SWITCH_ON.replace("ON\n", f"{int(on)}\n", 1)
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    return list(np.load(gave).values())
