"""Settings that keep the libraries we use at home: no telemetry, no caches in places of their own.

They are read from the environment while a library is imported, some by C++ before any function of it can be called, so
they are set when ``g3n_runtime`` or ``g3n_compiler`` is imported; child processes inherit them.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import MutableMapping

from g3n_runtime.cache_folder import cache_folder

SILENT = {
    # onnxruntime's wheel otherwise looks up and calls a host at every session, and writes ids to TMPDIR and ~/.cache.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub's user agent, and transformers' thread that asks the hub for other weight files.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    # datasets and evaluate, under lm-evaluation-harness, otherwise tell a host in the cloud of every file they open.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "DO_NOT_TRACK": "1",
}
"""Set whatever the user's environment says."""
FOLDERS = {
    "MPLCONFIGDIR": "matplotlib",  # otherwise ~/.config/matplotlib and ~/.cache/matplotlib
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",  # otherwise a folder in TMPDIR whose name anyone can take first
    "TRITON_CACHE_DIR": "triton",  # otherwise ~/.triton
}
"""Where a library keeps files, by its folder in our cache; a user's own choice stays."""


def silence_libraries(environ: MutableMapping[str, str] = os.environ) -> None:
    """Switch every library's telemetry off."""
    environ.update(SILENT)


def house_libraries(environ: MutableMapping[str, str] = os.environ) -> None:
    """Give the libraries folders in our cache, or temporary ones of this process where there is no safe cache."""
    for variable, name in FOLDERS.items():
        if environ.get(variable):
            continue
        folder = cache_folder(name, environ=environ)
        environ[variable] = str(folder) if folder is not None else _temporary(name)


def _temporary(name: str) -> str:
    folder = tempfile.mkdtemp(prefix=f"g3n-{name}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
