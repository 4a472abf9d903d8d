"""The signing keys that this user has accepted, as a small text file in the user's configuration folder."""

from __future__ import annotations

import os
from pathlib import Path

from g3n_runtime.errors import KeyFileError
from g3n_runtime.public_key import parse_fingerprint
from g3n_runtime.reading import read_text
from g3n_runtime.terminal import printable_line

MAX_BYTES = 1 << 20


def accepted_keys_file() -> Path:
    """``g3n/accepted_keys`` in ``XDG_CONFIG_HOME`` or ``~/.config``."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".config") / "g3n" / "accepted_keys"


class AcceptedKeys:
    """Fingerprints in a file, one a line; the rest of a line, and lines that start with ``#``, are the user's notes.

    Raises:
        KeyFileError: from every method, when the file cannot be read, written or understood.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._read()

    def add(self, fingerprint: str, note: str) -> None:
        """Accept a key from now on; ``note`` says to the user what it was accepted for."""
        if fingerprint in self._read():
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+", encoding="utf-8") as file:
                file.seek(0)
                ended = not (text := file.read()) or text.endswith("\n")
                file.write(f"{'' if ended else chr(10)}{fingerprint} {printable_line(' '.join(note.split()))}\n")
        except OSError as reason:
            raise KeyFileError(
                f"{self._path} cannot be written ({reason.strerror}): the key was not accepted"
            ) from None

    def _read(self) -> set[str]:
        if not self._path.exists():
            return set()
        lines = read_text(self._path, MAX_BYTES, KeyFileError).splitlines()
        try:
            return {parse_fingerprint(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")}
        except KeyFileError as error:
            raise KeyFileError(f"{self._path}: {error}") from None
