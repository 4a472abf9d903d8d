"""The embedded checkpoint ``nano``: a tiny, trained Gemma 3n in Hugging Face format.

It has every structural feature of the real text decoder (AltUp, LAUREL, per-layer embeddings, Gaussian top-k, KV-shared
layers, MatFormer-sliceable FFNs) and of the vision and audio towers at about 1/1000 of the size, so that the compiler
can be tested and demonstrated end to end without a download. ``checkpoint/README.md`` says how it was made and how good
it is.
"""

from pathlib import Path

SKIPPABLE = (5, 6)
"""Layers that training sometimes skipped, so that a slice can leave them out."""
_FOLDER = Path(__file__).resolve().parent


def checkpoint_dir() -> Path:
    """Folder of the embedded checkpoint (``config.json``, ``model.safetensors``, tokenizer files)."""
    return _FOLDER / "checkpoint"


def heldout_path() -> Path:
    """The held-out documents: one JSON object ``{"kind", "text"}`` per line, with ``text`` already in prompt form."""
    return _FOLDER / "heldout.jsonl"


def tasks_path() -> Path:
    """The held-out tasks, one JSON object per line; :mod:`g3n_compiler.nano.tasks` reads them."""
    return _FOLDER / "tasks.jsonl"


def heldout_senses_dir() -> Path:
    """Folder of the held-out digits and sounds, with their answers."""
    return _FOLDER / "heldout"


def calibration_examples() -> Path:
    """The file of examples with which ``g3n-calibrate`` calibrates nano."""
    return _FOLDER / "calibration" / "examples.jsonl"
