"""A digest that a JSON object carries of itself, so that a change of it is seen: no record can list itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"


def with_digest(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with the digest of all the rest of it."""
    return {**value, DIGEST: _digest(value)}


def has_right_digest(value: Mapping[str, Any]) -> bool:
    """Whether ``value`` carries its own digest."""
    return value.get(DIGEST) == _digest(value)


def _digest(value: Mapping[str, Any]) -> str:
    rest = {key: item for key, item in value.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
