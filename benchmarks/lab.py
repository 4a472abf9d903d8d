"""Which bundles are nano's, for the benchmarks that ask them nano's questions."""

from collections.abc import Mapping
from typing import Any

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.nano import checkpoint_dir


def is_of_nano(manifest: Mapping[str, Any]) -> bool:
    """Whether a bundle was compiled from the embedded checkpoint, or from what ``g3n-calibrate`` made of it."""
    origin = manifest["provenance"]
    source = origin.get("calibration", {}).get("source", origin["checkpoint"])
    return bool(source == Checkpoint(checkpoint_dir()).sha256())


def recipe_label(manifest: Mapping[str, Any]) -> str:
    """The recipe, and whether the checkpoint was calibrated for it."""
    return manifest["recipe"]["name"] + (", calibrated" if "calibration" in manifest["provenance"] else "")
