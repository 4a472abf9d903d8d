"""Errors of the compiler; those of bundles and engines come from ``g3n_runtime``. Each has its own exit code.

A message says what was found, what was expected and what to do about it.
"""

from __future__ import annotations

from g3n_runtime.errors import BundleError, ContextFull, EngineError, G3nError, HashMismatch, MediaError, UnsafePath

__all__ = ["BundleError", "ContextFull", "EngineError", "G3nError", "HashMismatch", "MediaError", "UnsafePath"]


class CheckpointError(G3nError):
    """The checkpoint is missing, damaged, or not a Gemma 3n."""

    exit_code = 10


class MissingShard(CheckpointError):
    """The index names a shard that does not exist."""

    exit_code = 11


class TruncatedShard(CheckpointError):
    """A shard ends before the bytes that its header promises."""

    exit_code = 12


class BadHeader(CheckpointError):
    """A safetensors header is malformed or contradicts itself."""

    exit_code = 13


class UnknownTensor(CheckpointError):
    """A tensor that the compiler neither uses nor knows to be dead, or one that it needs and cannot find."""

    exit_code = 14


class WrongModel(CheckpointError):
    """The config does not describe a Gemma 3n that this compiler can build."""

    exit_code = 15


class NotFinite(CheckpointError):
    """A weight holds a NaN or an infinity."""

    exit_code = 16


class TokenizerError(CheckpointError):
    """The tokenizer is missing, or of a kind that no engine can load."""

    exit_code = 17


class UnsupportedTokenizer(TokenizerError):
    """The tokenizer is not a BPE with byte fallback over unsplit text, so SentencePiece cannot express it."""


class HubError(CheckpointError):
    """The hub cannot be reached, or the model on it is gated."""

    exit_code = 18


class OutOfReach(HubError):
    """The hub cannot be asked now: there is no network, no access, or the hub is down. A copy in the cache will do."""


class PartialCopy(HubError):
    """The cache holds only some of a repository's files.

    Args:
        lacks: those that are missing.
    """

    def __init__(self, message: str, lacks: str) -> None:
        super().__init__(message)
        self.lacks = lacks


class SourceChanged(CheckpointError):
    """A file was changed while it was being compiled."""

    exit_code = 19


class QuantisedCheckpoint(WrongModel):
    """The checkpoint's weights are quantised already."""


class TargetError(G3nError):
    """The target is unknown or cannot do what was asked."""

    exit_code = 20


class ContextError(G3nError):
    """The context or the prefill lengths do not fit the model."""

    exit_code = 21


class SliceError(G3nError):
    """The checkpoint cannot give the slice that was asked for."""

    exit_code = 22


class ExampleError(G3nError):
    """A calibration example is malformed, or needs something that the checkpoint lacks."""

    exit_code = 23


class DiskError(G3nError):
    """The disk is full or not writable."""

    exit_code = 30


class NotOurs(DiskError):
    """There is something at the destination, or beside it, that g3n cannot prove it wrote; it is left untouched."""

    exit_code = 32


class Busy(DiskError):
    """Another compile is writing to the same place."""

    exit_code = 33


class ResourceError(G3nError):
    """The machine has too little memory."""

    exit_code = 31


class LossError(G3nError):
    """The recipe loses more of the model's quality than was allowed."""

    exit_code = 41


class ParityError(G3nError):
    """An artifact does not compute what the reference computes."""

    exit_code = 40
