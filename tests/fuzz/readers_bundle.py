"""Readers of a bundle: its manifest, and the heads of the files that the engines open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from g3n_compiler.checkpoint.chat_template import GEMMA
from g3n_runtime.errors import G3nError
from tests.android.short import write_short_bundle
from tests.fuzz.case import Case
from tests.fuzz.mutate_bytes import damaged, edited_parts, protobuf_fields, protobuf_of, protobuf_resized
from tests.fuzz.mutate_json import edited_json
from tests.fuzz.reader import Reader, files
from tests.prompts import nano_tokenizer

MANIFEST = "manifest.json"
KINDS = ("prefill_decode", "embedder", "per_layer_embedder")
CONSTANTS: dict[str, Any] = {
    "get_max_seq_len": 8,
    "get_max_context_len": 16,
    "get_vocab_size": 32,
    "get_bos_id": 2,
    "get_eos_ids": [1, 3],
    "get_image_sizes": [256],
    "get_image_ids": [4, 5, 6],
    "get_audio_soft_tokens": 188,
    "get_audio_mel_bins": 128,
    "get_audio_frames_per_token": 16,
    "get_audio_ids": [7, 8, 9],
}
"""What a program says of itself by methods without inputs: the text model's and both towers' in one."""
WIDTH = 24


def bundle(folder: Path) -> None:
    """A bundle whose manifest is a real one, whose other files are a few bytes each."""
    write_short_bundle(folder)


def manifest_cases(folder: Path) -> st.SearchStrategy[Case]:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return files(MANIFEST, edited_json([manifest]))


def litertlm(folder: Path) -> None:
    """A ``.litertlm`` of models that are a few bytes each, one of which lies within another, as in an elastic one."""
    from g3n_compiler.lower.litert.container import View, write_litertlm
    from g3n_compiler.lower.litert.metadata import executor_metadata, llm_metadata
    from g3n_compiler.models.gemma3n.text_config import load_text_config
    from g3n_compiler.nano import checkpoint_dir
    from g3n_runtime.litert.elastic_names import ELASTIC_VIEW

    models = {kind: folder / kind for kind in KINDS}
    for kind, path in models.items():
        path.write_bytes(kind.encode() * 2000)
    tokenizer = (checkpoint_dir() / "tokenizer.model").read_bytes()
    executor = executor_metadata(load_text_config(checkpoint_dir()), 64)
    llm = llm_metadata(64, nano_tokenizer(), GEMMA)
    views = (View(ELASTIC_VIEW, "prefill_decode", 16384),)
    write_litertlm(folder / "model.litertlm", models, tokenizer, llm, executor, views)
    for path in models.values():
        path.unlink()


def litertlm_cases(folder: Path) -> st.SearchStrategy[Case]:
    from g3n_compiler.lower.litert.container import find_section

    path = folder / "model.litertlm"
    data = path.read_bytes()
    llm = find_section(path, "llm_metadata")

    def with_llm(content: bytes) -> bytes:
        return data[: llm.begin] + content[: llm.end - llm.begin].ljust(llm.end - llm.begin, b"\0") + data[llm.end :]

    whole = data[llm.begin : llm.end]
    metadata = edited_parts([whole], protobuf_fields, protobuf_of) | edited_parts(
        [whole], protobuf_fields, protobuf_resized
    )
    return st.one_of(
        files(path.name, damaged([data])),
        files(path.name, damaged([data[:20_000]])),
        files(path.name, metadata.map(with_llm)),
    )


def program(folder: Path) -> None:
    """``model.pte`` and ``model.ptd`` of a decoder that adds one, with two small tables."""
    import torch

    from g3n_compiler.lower.executorch.program import Method, export_method, serialize, to_edge
    from g3n_compiler.lower.executorch.tables import TableSource, write_tables
    from g3n_compiler.models.weights import WeightSpec
    from g3n_compiler.quantize.recipe import Scheme
    from g3n_runtime.executorch.model import PLE_TABLE, TOKEN_TABLE

    class AddOne(torch.nn.Module):
        def forward(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return rows + positions[None, :, None]

    spec = WeightSpec("t", (32, WIDTH), "ple", "t.weight")
    values = torch.ones(spec.shape)
    sources = {name: TableSource(spec, Scheme(bits), 1.0) for name, bits in (("tokens", 8), ("layers", 4))}
    layouts = write_tables(
        folder / "model.ptd", sources, lambda spec, rows: values if rows is None else values[slice(*rows)]
    )
    tables = {}
    for method, name, bits in ((TOKEN_TABLE, "tokens", 8), (PLE_TABLE, "layers", 4)):
        layout = layouts.layouts[name]
        tables[method] = [layout.rows, layout.width, bits, layout.values_offset, layout.scales_offset]
    inputs = (torch.zeros(1, 4, 2 * WIDTH), torch.arange(4))
    exported = export_method(Method("text_decoder", AddOne(), inputs, (1, 0)), 8)
    edge = to_edge({"text_decoder": exported}, {**CONSTANTS, **tables})
    with (folder / "model.pte").open("wb") as file:
        serialize(edge, {}, "model", {}).write_to_file(file)


def program_cases(folder: Path) -> st.SearchStrategy[Case]:
    pte, ptd = (folder / "model.pte").read_bytes(), (folder / "model.ptd").read_bytes()
    return st.one_of(
        files("model.pte", damaged([pte])), files("model.pte", damaged([pte])), files("model.ptd", damaged([ptd]))
    )


def open_manifest() -> Callable[[Path], object]:
    """All that reads a manifest before an engine is opened: a bundle's checks, ``g3n-inspect``, and the front ends."""
    from click.testing import CliRunner

    from g3n_compiler.cli.inspect import main as inspect
    from g3n_runtime.bundle import open_bundle
    from g3n_runtime.litert.media import MediaFrontEnd
    from g3n_runtime.push import DeviceFacts, check_device

    phone = DeviceFacts("Pixel 8", 34, ("arm64-v8a",), 8 << 30, 100 << 30)

    def read(folder: Path) -> None:
        found = open_bundle(folder)
        result = CliRunner().invoke(inspect, [str(folder)], catch_exceptions=False)
        if result.exit_code:
            raise AssertionError(f"g3n-inspect refuses what g3n-run opens: {result.output[:500]}")
        MediaFrontEnd.of(found)
        for name in found.runtimes:
            found.file({"litert": "litertlm", "executorch": "executorch_model"}[name])
        check_device(phone, found, 0)

    return read


def open_litertlm() -> Callable[[Path], object]:
    """The header as our own reader and as LiteRT-LM take it."""
    from g3n_compiler.lower.litert.container import entry_points
    from g3n_runtime.litert.engine import LiteRtEngine

    def read(folder: Path) -> None:
        entry_points(folder / "model.litertlm")
        LiteRtEngine(folder / "model.litertlm").close()

    return read


def open_program() -> Callable[[Path], object]:
    """A program as the text model and the towers open it."""
    import executorch.kernels.quantized
    import executorch.runtime  # noqa: F401

    from g3n_runtime.executorch.audio import ExecuTorchAudio
    from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
    from g3n_runtime.executorch.vision import ExecuTorchVision

    def read(folder: Path) -> None:
        refused: list[G3nError] = []
        try:
            model = ExecuTorchModel(ExecuTorchParts(folder / "model.pte", folder / "model.ptd"))
            model.prefill([2, 3, 4])
        except G3nError as error:
            refused.append(error)
        for tower in (ExecuTorchVision, ExecuTorchAudio):
            try:
                tower(folder / "model.pte")
            except G3nError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    return read


READERS = (
    Reader("manifest", bundle, manifest_cases, open_manifest),
    Reader(".litertlm header", litertlm, litertlm_cases, open_litertlm),
    Reader(".pte/.ptd open", program, program_cases, open_program, "the commands, which run in a child"),
)
