"""``tokenizer.json`` as ExecuTorch's runner needs it: with a name for every id that the model can draw."""

from __future__ import annotations

import json
from pathlib import Path

_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def pad_to_vocabulary(path: Path, size: int) -> bytes:
    """The file with unused tokens for ids below ``size`` that have none; its own bytes where each has one.

    They are added tokens, in the order of their ids, because readers number those by what stands before them.
    """
    raw = path.read_bytes()
    spec = json.loads(raw)
    added = spec.get("added_tokens", [])
    known = {token["id"] for token in added} | set(spec["model"]["vocab"].values())
    unused = [{"id": i, "content": f"<g3n_unused{i}>", **_PLAIN} for i in range(size) if i not in known]
    if not unused:
        return raw
    spec["added_tokens"] = sorted([*added, *unused], key=lambda token: token["id"])
    return json.dumps(spec, ensure_ascii=False).encode()
