"""Which files of a folder hold the weights: those that ``transformers`` would load, or why there are none to read.

Source: ``transformers.modeling_utils._get_resolved_checkpoint_files``.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from g3n_compiler.checkpoint.fields import present, show
from g3n_compiler.checkpoint.remark import Remark
from g3n_compiler.errors import CheckpointError, MissingShard
from g3n_runtime.reading import read_json_object
from g3n_runtime.terminal import printable_line

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
EXPLICIT = "transformers_weights"
"""Field of ``config.json`` that names the file, or the index, to load instead."""
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.*"
MAX_INDEX_BYTES = 32 << 20
MAX_SHARDS = 512
"""All shards are held open; the published models have at most four."""
MAX_SEEN = 4096
"""File names that are looked for, to say what is in a folder."""
CONVERT = "load it with transformers and save it again with save_pretrained(NEW_FOLDER), which writes safetensors"
OTHER_FORMATS = (
    ("model-*-of-*.safetensors", "shards without their index", f"fetch {INDEX} too"),
    ("model.*.safetensors*", "a variant of the weights", f"save it without a variant, as {SINGLE}"),
    ("consolidated*", "weights in their trainer's own layout", "use the conversion of the one who trained it"),
    ("pytorch_model*.bin*", "PyTorch pickles, which can run code", CONVERT),
    ("*.gguf", "GGUF files, which are quantised", "pass the 16-bit checkpoint that they were made from"),
    ("*.distcp", "pieces of a distributed checkpoint", "merge them with accelerate merge-weights"),
    ("*_model_states.pt", "DeepSpeed's pieces", "run the zero_to_fp32.py beside them with --safe_serialization"),
    ("zero_to_fp32.py", "DeepSpeed's pieces", "run zero_to_fp32.py with --safe_serialization"),
    ("pytorch_model_fsdp*", "pieces of FSDP", "merge them with accelerate merge-weights"),
    ("*.pth", "PyTorch pickles, which can run code", CONVERT),
    ("*.pt", "PyTorch pickles, which can run code", CONVERT),
    ("*.ckpt", "PyTorch pickles, which can run code", CONVERT),
    ("*.bin", "PyTorch pickles, which can run code", CONVERT),
    ("*.msgpack", "Flax weights", CONVERT),
    ("*.h5", "TensorFlow weights", CONVERT),
    ("*.npz", "NumPy arrays", CONVERT),
    ("*.onnx", "a converted model", "pass the checkpoint that it was made from"),
    ("*.litertlm", "a compiled model", "pass the checkpoint that it was made from"),
    ("*.task", "a compiled model", "pass the checkpoint that it was made from"),
    ("*.tflite", "a compiled model", "pass the checkpoint that it was made from"),
    ("*.pte", "a compiled model", "pass the checkpoint that it was made from"),
    ("*.incomplete", "an unfinished download", "finish the download"),
    ("*.safetensors", "safetensors that transformers does not look for by this name", f"rename it to {SINGLE}"),
)  # fmt: skip
"""Pattern of a file's name, what such files are, and what to do."""


class WeightFiles(NamedTuple):
    """The files to read, in the order in which ``transformers`` reads them: of two equal names the later one counts."""

    paths: tuple[Path, ...]
    index_file: Path | None
    """The file that lists the shards."""
    promised: dict[str, str]
    """The shard that the index gives for each tensor."""


def find_weight_files(directory: Path, config: dict[str, Any], remark: Remark) -> WeightFiles:
    """The files that hold the weights of the checkpoint in ``directory``.

    Raises:
        CheckpointError: there are none that can be read; the message says what is there instead, and what to do.
    """
    explicit = config.get(EXPLICIT)
    if explicit is not None:
        return _explicit(directory, explicit, remark)
    if present(directory / SINGLE):
        if present(directory / INDEX):
            aside = sorted(name for name in _names(directory) if fnmatch.fnmatch(name, "model-*-of-*.safetensors"))
            remark(
                f"{SINGLE} is read, as transformers does; {INDEX} and {len(aside)} shards beside it are ignored: "
                "remove those that do not belong to the model"
            )
        return WeightFiles((directory / SINGLE,), None, {})
    if present(directory / INDEX):
        return _sharded(directory, directory / INDEX)
    raise _nothing(directory)


def require_adapter_named(directory: Path, lora: Path | None) -> None:
    """Raise unless an adapter that lies in a checkpoint's folder is the one that was asked for.

    ``transformers`` applies such an adapter without being asked.

    Raises:
        CheckpointError: the adapter would be left out.
    """
    names = _names(directory)
    if ADAPTER not in names or not fnmatch.filter(names, ADAPTER_WEIGHTS):
        return
    if lora is None or not lora.exists() or not lora.samefile(directory):
        raise CheckpointError(
            f"{directory} holds an adapter beside the model ({ADAPTER}), which transformers applies when it loads the "
            f"folder: pass --lora {printable_line(str(directory))} to merge it, or move it elsewhere"
        )


def _explicit(directory: Path, name: Any, remark: Remark) -> WeightFiles:
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise CheckpointError(
            f"{CONFIG} has {EXPLICIT} {show(name)}, expected the name of a .safetensors file or of its index"
        )
    _require_plain(name, f"{CONFIG}'s {EXPLICIT}")
    if name not in (SINGLE, INDEX):
        remark(f"the weights are read from {name}, as {CONFIG}'s {EXPLICIT} says")
    path = directory / name
    return _sharded(directory, path) if name.endswith(".json") else WeightFiles((path,), None, {})


def _sharded(directory: Path, index: Path) -> WeightFiles:
    found = read_json_object(index, CheckpointError, MAX_INDEX_BYTES, missing=MissingShard, infinite=True)
    promised = found.get("weight_map")
    if not isinstance(promised, dict) or not promised or not all(isinstance(v, str) for v in promised.values()):
        raise CheckpointError(f"{index} has no weight_map of tensor names to shard names")
    names = sorted(set(promised.values()))
    if len(names) > MAX_SHARDS:
        raise CheckpointError(f"{index} names {len(names)} shards, but at most {MAX_SHARDS} are read")
    for name in names:
        _require_plain(name, f"{index} names the shard")
    return WeightFiles(tuple(directory / name for name in names), index, promised)


def _require_plain(name: str, what: str) -> None:
    if Path(name).name != name or not name.isprintable():
        raise CheckpointError(f"{what} {name[:80]!r}, which is not a plain file name")


def _nothing(directory: Path) -> CheckpointError:
    """The error for a folder without weights: an adapter, the parent of checkpoints, or another format."""
    names = _names(directory)
    if ADAPTER in names:
        return CheckpointError(
            f"{directory} is an adapter ({ADAPTER}), not a checkpoint: pass it with --lora, and the model that it was "
            "trained on with --checkpoint"
        )
    wanted = f"neither {SINGLE} nor {INDEX} is in {directory}"
    for pattern, what, remedy in OTHER_FORMATS:
        if found := fnmatch.filter(names, pattern):
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            return MissingShard(f"{wanted}, only {what} ({printable_line(found[0])[:80]}{more}): {remedy}")
    if inside := list(_checkpoints_below(directory)):
        if len(inside) == 1:
            return MissingShard(f"{wanted}, but its folder {_relative(inside, directory)} is a checkpoint: pass that")
        return MissingShard(f"{wanted}, but it has several checkpoints: pass one of {_relative(inside, directory)}")
    return MissingShard(f"{wanted}: only safetensors are read")


def _relative(folders: Sequence[Path], directory: Path) -> str:
    names = [printable_line(str(folder.relative_to(directory))) for folder in folders]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _checkpoints_below(directory: Path, depth: int = 2) -> Iterator[Path]:
    """Folders inside ``directory`` that hold weights of their own, in the order of people: checkpoint-9 before -10."""
    for name in sorted(_names(directory), key=_natural):
        folder = directory / name
        if name.startswith(".") or not folder.is_dir() or folder.is_symlink():
            continue
        if any(present(folder / file) for file in (SINGLE, INDEX, ADAPTER)):
            yield folder
        elif depth > 1:
            yield from _checkpoints_below(folder, depth - 1)


def _natural(name: str) -> list[tuple[int, str]]:
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return [(int(d[:18]), "") for d in digits[-1:]] + [(0, name)]


def _names(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry, _ in zip(entries, range(MAX_SEEN), strict=False)]
    except OSError as reason:
        raise CheckpointError(f"{directory} cannot be read ({reason.strerror})") from None
