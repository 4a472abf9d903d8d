"""A digest that a JSON object carries of itself, so that a change of it is seen: no record can list itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "digest"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with the digest of all the rest of it."""
    return {**value, SEAL: _digest(value)}


def is_sealed(value: Mapping[str, Any]) -> bool:
    """Whether ``value`` carries its own digest."""
    return value.get(SEAL) == _digest(value)


def _digest(value: Mapping[str, Any]) -> str:
    rest = {key: item for key, item in value.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
