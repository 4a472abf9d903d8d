"""The LiteRT runner of ``g3n-verify --arch arm64``: a script for an interpreter of that machine, with numpy and LiteRT.

``litert_run.py REQUEST RESULT`` reads a JSON request (``parts``, ``texts`` of ids and prompt length, ``rows``,
``greedy``) and writes what :class:`g3n_runtime.litert.model.LiteRtModel` makes of it as ``.npz``.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from g3n_runtime.litert.model import LiteRtModel, LiteRtParts


def main(request_path: Path, result_path: Path) -> None:
    request: dict[str, Any] = json.loads(request_path.read_text(encoding="utf-8"))
    model = LiteRtModel(LiteRtParts(*(Path(p) for p in request["parts"])), threads=1)
    results: dict[str, Any] = {"machine": np.array(platform.machine())}
    for i, text in enumerate(request["texts"]):
        results[f"logits_{i}"] = model.logits(text["ids"])
        results[f"prefilled_{i}"] = model.prefilled_logits(text["ids"], text["prompt"])
    results["embeddings"] = model.embeddings(request["rows"])
    results["ple"] = model.ple(request["rows"])
    results["greedy"] = np.array(model.greedy(request["greedy"]["ids"], request["greedy"]["count"]), np.int64)
    np.savez(result_path, **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
