"""Errors a user can cause or meet. Each has its own exit code; the command line shows the message, never a traceback.

A message says what was found, what was expected and what to do about it.
"""

from __future__ import annotations


class G3nError(Exception):
    """Base of every error the command line turns into one clear line."""

    exit_code = 1


class EngineError(G3nError):
    """A stock engine refused a bundle or a prompt."""

    exit_code = 60


class ContextFull(EngineError):
    """A prompt, with the conversation before it, does not fit the bundle's context.

    Args:
        tokens: of the conversation with the prompt.
        context: tokens that prompt and answer may have together.
        to_drop: the oldest turns that must be dropped to make room; ``None`` if that does not help.
    """

    exit_code = 62

    def __init__(self, message: str, tokens: int = 0, context: int = 0, to_drop: int | None = None) -> None:
        super().__init__(message)
        self.tokens, self.context, self.to_drop = tokens, context, to_drop


class MediaError(G3nError):
    """An image, a sound or a video is missing, broken, empty or too large."""

    exit_code = 61


class SoundError(MediaError):
    """A sound is no sound, damaged, too short, or too long."""


class WrongAnswer(G3nError):
    """A bundle did not give the answer that was expected."""

    exit_code = 63


class BundleError(G3nError):
    """A bundle is incomplete, malformed or made by a newer version."""

    exit_code = 50


class HashMismatch(BundleError):
    """A file of a bundle differs from the hash in its manifest."""

    exit_code = 51


class UnsafePath(BundleError):
    """A manifest names a path that leaves the bundle's folder."""

    exit_code = 52


class SignatureError(BundleError):
    """A bundle's signature is missing, broken, of another key, or of another bundle."""

    exit_code = 53


class KeyFileError(G3nError):
    """A file is not a key that bundles are signed or checked with."""

    exit_code = 54


class CannotCheckSignature(G3nError):
    """A signature can be neither confirmed nor refused here: its key or the package that checks it is missing."""

    exit_code = 55


class AdbError(G3nError):
    """adb is missing, sees no usable device, failed on the way, or answered what is not understood."""

    exit_code = 70


class DeviceUnfit(G3nError):
    """The device cannot hold or run the bundle."""

    exit_code = 71
