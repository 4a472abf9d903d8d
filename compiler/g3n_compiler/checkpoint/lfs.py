"""Recognise what a clone without git-lfs has in place of a large file."""

from __future__ import annotations


def is_lfs_pointer(first_bytes: bytes) -> bool:
    """Whether a file that begins with ``first_bytes`` is a git-lfs pointer."""
    return first_bytes.startswith(b"version https://git-lfs.github.com/spec/")
