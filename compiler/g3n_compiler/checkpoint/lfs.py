"""Recognise what git leaves in place of a large file when a repository is cloned without git-lfs."""

from __future__ import annotations

START = b"version https://git-lfs.github.com/spec/"


def is_lfs_pointer(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is a git-lfs pointer."""
    return first_bytes.startswith(START)
