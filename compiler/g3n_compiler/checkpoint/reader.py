"""A Hugging Face Gemma 3n checkpoint folder: its tensors by name, read when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from g3n_compiler.checkpoint.config import TextConfig, load_text_config
from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.identity import Sources
from g3n_compiler.checkpoint.multimodal import (
    AudioConfig,
    EmbedderConfig,
    Tower,
    VisionConfig,
    load_audio_config,
    load_vision_config,
)
from g3n_compiler.checkpoint.safetensors import MAX_HEADER_BYTES, SafetensorsFile, TensorEntry
from g3n_compiler.errors import BadHeader, CheckpointError, MissingShard, UnknownTensor
from g3n_compiler.modules.weights import WeightSpec, dead_weights
from g3n_runtime.reading import read_json_object

if TYPE_CHECKING:
    from g3n_compiler.modules.multimodal_embedder import HardRows

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_SHARDS = 512
"""Each is held open; the published models have up to four."""
READ_BY_NAME = (
    "config.json",
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "processor_config.json",
    "preprocessor_config.json",
    "calibration.json",
)
"""Files of a checkpoint that are looked for, all but the shards."""
TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "model.")
"""Where the text model's tensors live: in a multimodal checkpoint, an old one, a text-only one."""
TOWER_TENSORS: dict[Tower, tuple[str, ...]] = {
    "vision": ("vision_tower.", "embed_vision."),
    "audio": ("audio_tower.", "embed_audio."),
}
"""How the names of a tower's tensors begin, after one of the prefixes."""
STEM_BIAS = "vision_tower.timm_model.conv_stem.conv.bias"

Update = Callable[[str, tuple[int, int] | None, Tensor], Tensor]
"""Changes a tensor (name, rows, float32 value) as it is read, e.g. a LoRA merge."""


class Checkpoint:
    """Lazily read tensors; every read returns float32."""

    def __init__(self, directory: Path) -> None:
        if not present(directory) or not directory.is_dir():
            raise CheckpointError(f"{directory} is not a folder: expected a Hugging Face checkpoint")
        self.directory = directory
        self.text: TextConfig = load_text_config(directory)
        self.shards = self._open_shards()
        self._owner: dict[str, SafetensorsFile] = {}
        for shard in self.shards:
            for name in shard.entries:
                if name in self._owner:
                    raise BadHeader(f"tensor {name!r} is in both {self._owner[name].path.name} and {shard.path.name}")
                self._owner[name] = shard
        self.text_prefix = self._find_text_prefix()
        self.tower_prefix = "model." if any(self.tower_of(n) and n.startswith("model.") for n in self._owner) else ""
        self.update: Update | None = None
        self.hard_rows: HardRows | None = None
        """Puts the hard ids of the towers that are compiled into the token table."""

    def close(self) -> None:
        for shard in self.shards:
            shard.close()

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        return {name: shard.entries[name] for name, shard in self._owner.items()}

    @property
    def towers(self) -> tuple[Tower, ...]:
        """The towers that the checkpoint has tensors of."""
        present = {self.tower_of(name) for name in self._owner}
        return tuple(t for t in TOWER_TENSORS if t in present)

    @cached_property
    def vision(self) -> VisionConfig | None:
        """The vision tower's config; ``None`` where the checkpoint has no tensor of one."""
        if "vision" not in self.towers:
            return None
        stem_bias = self.tower_prefix + STEM_BIAS in self._owner
        return load_vision_config(read_json(self.directory / "config.json"), stem_bias)

    @cached_property
    def audio(self) -> AudioConfig | None:
        """The audio tower's config; ``None`` where the checkpoint has no tensor of one."""
        return load_audio_config(read_json(self.directory / "config.json")) if "audio" in self.towers else None

    def embedder(self, tower: Tower) -> EmbedderConfig | None:
        """The embedder of ``tower``; ``None`` where the checkpoint has none."""
        config = self.vision if tower == "vision" else self.audio
        return None if config is None else config.embedder

    @staticmethod
    def tower_of(name: str) -> Tower | None:
        """The tower that a tensor's full name belongs to."""
        relative = name.removeprefix("model.")
        return next((tower for tower, starts in TOWER_TENSORS.items() if relative.startswith(starts)), None)

    def read_tensor(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor by its full name, float32; ``rows`` selects ``[begin, end)`` of its first dimension."""
        value = self._owner[name].read(name, rows).to(torch.float32)
        return value if self.update is None else self.update(name, rows, value)

    def tensor_name(self, relative: str) -> str:
        """Full name of a tensor, named as the config numbers the layers and without what precedes it in the file."""
        return (self.tower_prefix if self.tower_of(relative) else self.text_prefix) + relative

    def dtype(self, relative: str) -> torch.dtype:
        """What the checkpoint stores a tensor, named as in :meth:`tensor_name`, as."""
        name = self.tensor_name(relative)
        return self._owner[name].entries[name].dtype

    def read_relative(self, relative: str, rows: tuple[int, int] | None = None) -> Tensor:
        """As :meth:`read_tensor`, of a tensor named as in :meth:`tensor_name`."""
        return self.read_tensor(Checkpoint.tensor_name(self, relative), rows)

    def read(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        """The float32 value of ``spec``, or some of its rows (counted within the spec), in the graph's layout."""
        begin, end = spec.rows or (0, spec.shape[0])
        if rows is not None:
            begin, end = begin + rows[0], begin + rows[1]
        whole = spec.rows is None and rows is None
        value = self.read_relative(spec.tensor, None if whole else (begin, end))
        if spec.role == "embedding" and self.hard_rows is not None:
            value = self.hard_rows(begin, value)
        if spec.axes is not None:
            value = value.permute(spec.axes).contiguous()
        if spec.columns is not None:
            value = torch.cat([value[:, first:last] for first, last in spec.columns], 1)
        return value.view(-1, *spec.shape[1:])

    def check_shape(self, spec: WeightSpec) -> None:
        """Raise unless the checkpoint holds ``spec`` with the shape that the config implies."""
        name = Checkpoint.tensor_name(self, spec.tensor)
        if name not in self._owner:
            raise UnknownTensor(f"tensor {name!r} is not in the checkpoint, but its config.json needs it")
        shape = self._owner[name].entries[name].shape
        if spec.axes is not None:
            shape = tuple(shape[a] for a in spec.axes) if len(shape) == len(spec.axes) else shape
        elif len(shape) == 4 and len(spec.shape) == 2 and shape[2:] == (1, 1):
            shape = shape[:2]
        fits = shape[1:] == spec.shape[1:] and (shape == spec.shape if spec.rows is None else spec.rows[1] <= shape[0])
        if not fits:
            raise UnknownTensor(f"tensor {name!r} has shape {list(shape)}, config.json implies {list(spec.shape)}")

    def dead_tensors(self) -> dict[str, str]:
        """Tensors of the text model that inference never reads, by relative name, each with the reason."""
        return dead_weights(self.text)

    def sha256(self) -> dict[str, str]:
        """Hash of each file that decides what is compiled, by file name."""
        hashes = {shard.path.name: shard.sha256() for shard in self.shards}
        hashes["config.json"] = file_sha256(self.directory / "config.json")
        return dict(sorted(hashes.items()))

    def note(self, sources: Sources) -> None:
        """Note the files that were opened, as they were then; :func:`note_texts` is for those read by name."""
        for shard in self.shards:
            sources.note_opened(shard.path, shard.identity)

    def _open_shards(self) -> list[SafetensorsFile]:
        index = self.directory / INDEX
        if not present(index):
            if not present(self.directory / SINGLE):
                raise MissingShard(f"neither {INDEX} nor {SINGLE} is in {self.directory}: only safetensors are read")
            return [SafetensorsFile(self.directory / SINGLE)]
        weight_map = read_json_object(index, CheckpointError, MAX_HEADER_BYTES, infinite=True).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            raise CheckpointError(f"{index} has no weight_map of tensor names to shard names")
        promised: dict[str, set[str]] = {}
        for tensor, name in weight_map.items():
            promised.setdefault(name, set()).add(tensor)
        if len(promised) > MAX_SHARDS:
            raise CheckpointError(f"{index} names {len(promised)} shards, at most {MAX_SHARDS} are read")
        for name in promised:
            if Path(name).name != name or not name.isprintable():
                raise CheckpointError(f"{index} names the shard {name[:80]!r}, which is not a plain file name")
        shards = [SafetensorsFile(self.directory / name) for name in sorted(promised)]
        for shard in shards:
            if wrong := promised[shard.path.name].symmetric_difference(shard.entries):
                raise BadHeader(
                    f"{index.name} and {shard.path.name} disagree on {len(wrong)} tensors, e.g. {min(wrong)[:200]!r}"
                )
        return shards

    def _find_text_prefix(self) -> str:
        for prefix in TEXT_PREFIXES:
            if prefix + "embed_tokens.weight" in self._owner:
                return prefix
        raise UnknownTensor("the checkpoint has no embed_tokens.weight: it holds no Gemma 3n text model")


def note_texts(directory: Path, sources: Sources) -> None:
    """Note all that is read by name of a checkpoint's folder; do it before any of it is."""
    sources.note(directory / name for name in READ_BY_NAME)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
