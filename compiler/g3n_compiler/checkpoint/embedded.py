"""Whether a checkpoint is nano: decided by its bytes, never by its name."""

from __future__ import annotations

from collections.abc import Mapping

from g3n_compiler.checkpoint.calibrated import read_calibration
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.nano import checkpoint_dir


def is_nano(hashes: Mapping[str, str], calibrated_from: Mapping[str, str] | None = None) -> bool:
    """Whether a checkpoint is nano, or was calibrated from it.

    Args:
        hashes: SHA-256 of the checkpoint's files, by name.
        calibrated_from: those of the checkpoint that a calibrated one was made from.
    """
    nano = Checkpoint(checkpoint_dir())
    own = nano.sha256()
    nano.close()
    return dict(calibrated_from or hashes) == own


def comes_from_nano(checkpoint: Checkpoint) -> bool:
    """As :func:`is_nano`, of an opened checkpoint; another one is hashed only if its files have nano's sizes."""
    calibration = read_calibration(checkpoint.directory)
    if calibration is not None:
        return is_nano({}, calibration.source)
    nano = Checkpoint(checkpoint_dir())
    sizes = [[shard.path.stat().st_size for shard in opened.shards] for opened in (nano, checkpoint)]
    nano.close()
    return sizes[0] == sizes[1] and is_nano(checkpoint.sha256())
