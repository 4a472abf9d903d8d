"""Lower a checkpoint once more, into one program that holds the text model and the towers.

The delegates are those of the bundle's own programs, and so are weights and tables, of which the file has copies of its
own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from g3n_compiler.lower.executorch.audio import EncodeClip, audio_specs, clip_encoder
from g3n_compiler.lower.executorch.cache import full_slots
from g3n_compiler.lower.executorch.delegates.text import DecoderPieces
from g3n_compiler.lower.executorch.delegates.text_templates import TextTemplates
from g3n_compiler.lower.executorch.delegates.tower import TowerTemplates, export_static
from g3n_compiler.lower.executorch.delegates.weight_store import store_weights
from g3n_compiler.lower.executorch.methods import ChunkDecoder, Forward, RowDecoder, Tables, TokenEmbedding, row_width
from g3n_compiler.lower.executorch.program import Method, export_method, serialize, to_edge
from g3n_compiler.lower.executorch.single.forms import Form, SingleProgram, single_program
from g3n_compiler.lower.executorch.single.modules import Picture, Sound, SplitDecoder, SplitEmbedding, WithPle
from g3n_compiler.lower.executorch.tables import EmbeddingTable, TablesFile
from g3n_compiler.lower.executorch.text import EXAMPLE_TOKENS, TABLES_TAG, WEIGHTS, metadata, table_sources
from g3n_compiler.lower.executorch.vision import EncodeImage, image_encoder, vision_specs
from g3n_compiler.lower.executorch.weights import checkpoint_parts
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.signatures.vision import adapter_read
from g3n_compiler.models.gemma3n.audio_weights import AudioReader
from g3n_compiler.models.registry import text_weights
from g3n_runtime.executorch.model import MappedTable
from g3n_runtime.media.mel import HOP, RATE

HAS_PLE, PLACEHOLDER = "has_ple", "image_placeholder_id"
"""Methods without inputs of the form ``rows``."""
Programs = dict[str, torch.export.ExportedProgram]
Data = dict[str, bytes | Path]
Encoder = TypeVar("Encoder", bound=nn.Module)
WHITE: Mapping[Form, float] = {"stock": 1.0, "rows": 255.0}
"""The brightest value of a pixel: react-native-executorch hands over bytes as floats."""


@dataclass(frozen=True)
class _Lowered(Generic[Encoder]):
    """A tower over delegates, and what these request by name."""

    encoder: Encoder
    data: Data


class SingleWriter:
    """Writes the single programs of ``job``; what several of them hold is lowered once.

    Args:
        tables: the bundle's data file, which ``file`` describes.
    """

    def __init__(self, job: Job, tables: Path, file: TablesFile) -> None:
        self._job, self._tables, self._file = job, tables, file
        self._folder = job.steps.folder / WEIGHTS

    def write(self, form: Form, path: Path) -> None:
        """Write the program of ``form`` to ``path``; the same arguments give the same bytes.

        Raises:
            ContextError: the context is too short for it.
            NotFinite: a weight holds a NaN or an infinity.
        """
        job, file = self._job, self._file
        program = single_program(job, form)
        self._folder.mkdir(exist_ok=True)
        # Neither Android's runner for media nor react-native-executorch can name a data file.
        inside = _cut_tables(self._tables, file, self._folder)
        programs, data = self._text(program)
        for table, names in file.weight_names.items():
            data |= {names[part]: inside[f"{table}.{part}"] for part in ("values", "scales")}
        if (audio := self._audio) is not None:
            programs["audio_encoder"] = self._sound(program, audio.encoder)
            data |= audio.data
        if (vision := self._vision) is not None:
            programs["vision_encoder"] = self._picture(program, vision.encoder)
            data |= vision.data
        constants = metadata(job.config, job.context, program.chunk, file.layouts, job.tokenizer.stop_ids)
        if form == "rows":
            constants |= {HAS_PLE: True, PLACEHOLDER: 0}
        edge = to_edge(programs, constants)
        rows = {f"{name}.{part}": layout.rows for name, layout in file.layouts.items() for part in layout.parts}
        with path.open("wb") as output:
            serialize(edge, rows, TABLES_TAG, data, inside).write_to_file(output)

    def forget_weights(self) -> None:
        """Remove the encoded weights, which the programs have copied."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _text(self, program: SingleProgram) -> tuple[Programs, Data]:
        """The methods of the text model, and what their delegates request."""
        job, chunk = self._job, program.chunk
        config, recipe, specs = job.config, job.recipe, text_weights(job.config)
        head = self._file.weight_names.get("embed_tokens")
        read = checkpoint_parts(lambda spec: job.source.read(spec, None), job.source.read)
        stored = store_weights(specs, recipe, read, self._folder, {} if head is None else {"lm_head": head})
        templates = TextTemplates(config, specs, recipe, stored, chunk, full_slots(job.context))
        embed = {name: EmbeddingTable(s.spec.shape[1], s.scheme) for name, s in table_sources(config, recipe).items()}
        lookup = Tables(config, embed["embed_tokens"], embed["embed_tokens_per_layer"])
        decoder = ChunkDecoder(config, DecoderPieces(config, templates), job.context, chunk)
        length = min(EXAMPLE_TOKENS, chunk)
        tokens, positions = torch.zeros(1, length, dtype=torch.int64), torch.arange(length)
        if program.form == "stock":
            rows = torch.zeros(1, length, row_width(config))
            methods = [
                (Method("token_embedding", TokenEmbedding(lookup), (tokens,), (1,)), chunk),
                (Method("text_decoder", RowDecoder(decoder), (rows, positions), (1, 0)), chunk),
            ]
        else:
            hidden = torch.zeros(1, length, config.hidden_size)
            ple = torch.zeros(1, length, config.num_layers, config.ple_dim)
            methods = [
                (Method("forward", Forward(lookup, decoder), (tokens, positions), (1, 0)), chunk),
                # The app looks a whole prompt up at once, and cuts it afterwards.
                (Method("token_embedding", SplitEmbedding(lookup), (tokens,), (1,)), job.context),
                (Method("text_decoder", SplitDecoder(decoder), (hidden, ple, positions), (1, 1, 0)), chunk),
            ]
        programs = {method.name: export_method(method, longest) for method, longest in methods}
        return programs, {**stored.data, **templates.constants}

    @cached_property
    def _vision(self) -> _Lowered[EncodeImage] | None:
        job, vision = self._job, self._job.vision
        if vision is None:
            return None
        hidden, read = job.config.hidden_size, checkpoint_parts(adapter_read(job.source, vision))
        stored = store_weights(vision_specs(vision, hidden), job.recipe, read, self._folder, {})
        templates = TowerTemplates(job.recipe, stored)
        encoder = image_encoder(vision, hidden, templates, job.resolutions[0])
        return _Lowered(encoder, {**stored.data, **templates.constants})

    @cached_property
    def _audio(self) -> _Lowered[EncodeClip] | None:
        job, audio = self._job, self._job.audio
        if audio is None:
            return None
        read = checkpoint_parts(AudioReader(audio, job.source.read))
        stored = store_weights(audio_specs(audio), job.recipe, read, self._folder, {})
        templates = TowerTemplates(job.recipe, stored)
        encoder = clip_encoder(audio, templates)
        return _Lowered(encoder, {**stored.data, **templates.constants})

    def _picture(self, program: SingleProgram, encoder: EncodeImage) -> torch.export.ExportedProgram:
        picture, side = self._finished(program, Picture(encoder, WHITE[program.form])), program.image_size
        assert side is not None
        return export_static(picture, ((1, 3, side, side),))

    def _sound(self, program: SingleProgram, encoder: EncodeClip) -> torch.export.ExportedProgram:
        job, audio, longest = self._job, self._job.audio, program.samples
        assert audio is not None and longest is not None
        end = AudioReader(audio, job.source.read).hard_token_row(audio.end_id)
        sound = self._finished(program, Sound(encoder, longest // HOP, end))
        method = Method("audio_encoder", sound, (torch.zeros(1, 1, RATE),), (2,))
        if program.form == "rows":
            method = Method("audio_encoder", sound, (torch.zeros(1, RATE), torch.tensor(RATE)), (1, None))
        return export_method(method, longest)

    def _finished(self, program: SingleProgram, encoder: nn.Module) -> nn.Module:
        """``encoder`` with all that the form's decoder takes."""
        return WithPle(encoder, _soft_ple(self._tables, self._file)) if program.form == "stock" else encoder


def _soft_ple(tables: Path, file: TablesFile) -> Tensor:
    """Per-layer embeddings ``[layers * ple_dim]`` of id 0, which soft tokens have."""
    table = MappedTable(tables, list(astuple(file.layouts["embed_tokens_per_layer"])))
    return torch.from_numpy(table.look_up(np.zeros(1, np.int64))[0])


def _cut_tables(tables: Path, file: TablesFile, folder: Path) -> dict[str, Path]:
    """The parts of the tables as files in ``folder``, by their names."""
    out: dict[str, Path] = {}
    for name, layout in file.layouts.items():
        parts: dict[str, tuple[int, int]] = {"values": (layout.values_offset, layout.rows * layout.row_bytes)}
        if layout.bits != 32:
            parts["scales"] = (layout.scales_offset, layout.rows * 4)
        for part, (offset, nbytes) in parts.items():
            out[f"{name}.{part}"] = folder / f"{name}-table-{part}"
            _copy(tables, offset, nbytes, out[f"{name}.{part}"])
    return out


def _copy(source: Path, offset: int, nbytes: int, target: Path, block: int = 16 << 20) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        read.seek(offset)
        while nbytes > 0:
            piece = read.read(min(block, nbytes))
            if not piece:
                raise EOFError(f"{source.name} ends before its tables do")
            write.write(piece)
            nbytes -= len(piece)
