"""Names that the compiler and the loop over an elastic bundle's sizes share."""

from __future__ import annotations

ELASTIC_VIEW = "prefill_decode_elastic"
"""Section of a ``.litertlm`` whose model has the signatures of all sizes of an elastic bundle."""


VERIFY_PREFIX = "verify_"
"""Begins the name of the largest size's signature that takes drafted tokens; their greatest number ends it."""


def signature_of(size: str | None, name: str) -> str:
    """Name of a signature of a smaller ``size``; the largest one's (``None``) have the plain names."""
    return name if size is None else f"{size}:{name}"
