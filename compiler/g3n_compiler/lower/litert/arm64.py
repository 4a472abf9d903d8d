"""The LiteRT interpreter for aarch64, emulated: see :mod:`g3n_compiler.lower.arm64_kit`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import g3n_runtime
from g3n_compiler.errors import EngineError
from g3n_compiler.lower.arm64_kit import UNREADABLE, ArmKit, Outputs, Text, refuse_answers
from g3n_compiler.lower.litert.container import extract
from g3n_compiler.lower.litert.opened import SECTIONS


def run_on_arm(
    kit: ArmKit, packed: Path, texts: Sequence[Text], greedy: int, rows: Sequence[int], scratch: Path
) -> Outputs:
    """Outputs of the decoder and the tables of the ``.litertlm`` at ``packed``."""
    parts = []
    for kind in SECTIONS.values():
        parts.append(scratch / f"{kind}.tflite")
        extract(packed, kind, parts[-1])
    request = {
        "parts": [str(part) for part in parts],
        "texts": [{"ids": list(g.ids), "prompt": g.prompt} for g in texts],
        "rows": list(rows),
        "greedy": {"ids": list(texts[0].ids), "count": greedy},
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
    return read_answers(answered, len(texts))


def read_answers(path: Path, count: int) -> Outputs:
    """What the emulated runner wrote for ``count`` texts."""
    try:
        with np.load(path, allow_pickle=False) as result:
            if (machine := str(result["machine"])) != "aarch64":
                raise EngineError(f"the emulated interpreter runs on {machine[:40]}, not aarch64: make the kit again")
            return Outputs(
                [result[f"logits_{i}"] for i in range(count)],
                [result[f"prefilled_{i}"] for i in range(count)],
                [int(token) for token in result["greedy"]],
                result["embeddings"],
                result["ple"],
            )
    except UNREADABLE as error:
        refuse_answers(path, error)
