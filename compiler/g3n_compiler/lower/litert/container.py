"""Write and read ``.litertlm`` files, the single-file bundles of Google's LiteRT-LM engine.

A file is a small flatbuffer that lists sections, followed by the sections, each on a 16 KiB boundary so that it can be
memory-mapped by itself. ``litert_lm_builder`` writes the same format but adds a random id and the time; this writer
gives the same bytes for the same input. Format: ``litert_lm_builder.litertlm_core`` and its schema.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import flatbuffers
from litert_lm_builder import litertlm_core as core
from litert_lm_builder import litertlm_header_schema_py_generated as schema

from g3n_compiler.errors import BundleError
from g3n_runtime.litert.elastic_names import ELASTIC_VIEW
from g3n_runtime.reading import open_regular

SectionKind = Literal[
    "llm_metadata",
    "executor_metadata",
    "sp_tokenizer",
    "hf_tokenizer",
    "prefill_decode",
    "embedder",
    "per_layer_embedder",
    "vision_encoder",
    "vision_adapter",
    "audio_encoder_hw",
    "audio_adapter",
    "end_of_audio",
]
MODEL_KINDS: tuple[SectionKind, ...] = ("prefill_decode", "embedder", "per_layer_embedder")
TOWER_KINDS: tuple[SectionKind, ...] = (
    "vision_encoder",
    "vision_adapter",
    "audio_encoder_hw",
    "audio_adapter",
    "end_of_audio",
)
MODEL_PREFIX = "tf_lite_"
MODEL_KEY, VIEW_KEY = "model_type", "name"
ACTIVATION_KEY, FLOAT32 = "prefer_activation_type", "fp32"
DATA_KINDS: dict[int, SectionKind] = {
    schema.AnySectionDataType.LlmMetadataProto: "llm_metadata",
    schema.AnySectionDataType.ExecutorMetadataProto: "executor_metadata",
    schema.AnySectionDataType.SP_Tokenizer: "sp_tokenizer",
    schema.AnySectionDataType.HF_Tokenizer_Zlib: "hf_tokenizer",
}
MAX_HEADER_BYTES = 16 << 20
Writer = Callable[[BinaryIO], None]


@dataclass(frozen=True)
class Section:
    """A section's kind (for an unknown one, the engine's own name) and its bytes ``[begin, end)`` in the file."""

    kind: str
    begin: int
    end: int


@dataclass(frozen=True)
class View:
    """A model that begins ``offset`` bytes into the section ``within`` and ends with it; engines ignore it."""

    name: str
    within: SectionKind
    offset: int


def write_litertlm(
    path: Path,
    models: Mapping[SectionKind, Path],
    tokenizer: bytes | Path,
    llm: bytes,
    executor: bytes,
    views: Sequence[View] = (),
    in_float32: Collection[SectionKind] = (),
) -> list[Section]:
    """Pack a bundle; the same input gives the same bytes.

    Args:
        models: the TFLite file for each of :data:`MODEL_KINDS`, and for any of :data:`TOWER_KINDS`.
        tokenizer: a SentencePiece model's bytes (which load faster and take less memory), or the path of a
            ``tokenizer.json``.
        llm: from :func:`.metadata.llm_metadata`.
        executor: from :func:`.metadata.executor_metadata`.
        views: sections that overlap a model's section, each beginning on a block boundary of it.
        in_float32: the models whose activations a GPU keeps in float32; by itself it takes float16 for the decoder.
    """
    if missing := [kind for kind in MODEL_KINDS if kind not in models]:
        raise BundleError(
            f"a text bundle needs the models {', '.join(MODEL_KINDS)}, but {', '.join(missing)} is missing"
        )
    is_sentencepiece = isinstance(tokenizer, bytes)
    parts: list[tuple[SectionKind, Writer]] = [
        ("llm_metadata", _write_bytes(llm)),
        ("executor_metadata", _write_bytes(executor)),
        ("sp_tokenizer" if is_sentencepiece else "hf_tokenizer", _write_tokenizer(tokenizer)),
        *((kind, _copy_file(models[kind])) for kind in (*MODEL_KINDS, *TOWER_KINDS) if kind in models),
    ]
    header = _header([kind for kind, _ in parts], views, in_float32)
    size = len(_pack(header))
    written = []
    with path.open("wb") as file:
        begin = _round_up(core.HEADER_BEGIN_BYTE_OFFSET + size)
        entries = header.sectionMetadata.objects
        for entry, (kind, write) in zip(entries[: len(parts)], parts, strict=True):
            file.seek(begin)
            write(file)
            entry.beginOffset, entry.endOffset = begin, file.tell()
            written.append(Section(kind, begin, file.tell()))
            begin = _round_up(file.tell())
        whole = {section.kind: section for section in written}
        for entry, view in zip(entries[len(parts) :], views, strict=True):
            section = whole[view.within]
            entry.beginOffset, entry.endOffset = section.begin + view.offset, section.end
            written.append(Section(view.name, entry.beginOffset, entry.endOffset))
        file.seek(0)
        version = (core.LITERTLM_MAJOR_VERSION, core.LITERTLM_MINOR_VERSION, core.LITERTLM_PATCH_VERSION)
        file.write(core.HEADER_MAGIC_BYTES + struct.pack("<3I", *version))
        file.seek(core.HEADER_END_LOCATION_BYTE_OFFSET)
        file.write(struct.pack("<Q", core.HEADER_BEGIN_BYTE_OFFSET + size))
        file.write(_pack(header))
    return written


def sections(path: Path) -> list[Section]:
    """The sections of a ``.litertlm`` file, in file order.

    Raises:
        BundleError: the file is not a ``.litertlm``, or its header is damaged.
    """
    with open_regular(path, BundleError) as file:
        length = os.fstat(file.fileno()).st_size
        start = file.read(core.HEADER_BEGIN_BYTE_OFFSET)
        if len(start) < core.HEADER_BEGIN_BYTE_OFFSET or not start.startswith(core.HEADER_MAGIC_BYTES):
            raise BundleError(
                f"{path} does not begin with {core.HEADER_MAGIC_BYTES.decode()}: it is not a .litertlm file"
            )
        (end,) = struct.unpack_from("<Q", start, core.HEADER_END_LOCATION_BYTE_OFFSET)
        size = end - core.HEADER_BEGIN_BYTE_OFFSET
        if not 0 < size <= min(length, MAX_HEADER_BYTES):
            raise BundleError(
                f"{path} claims a header of {size} bytes but has {length}: it is damaged, so copy it again"
            )
        content = file.read(size)
    try:
        listed = schema.LiteRTLMMetaData.GetRootAs(content).SectionMetadata()
        found = [_section(listed.Objects(i)) for i in range(listed.ObjectsLength())]
    except (AttributeError, TypeError, IndexError, ValueError, StopIteration, struct.error):
        raise BundleError(f"{path} has a header that cannot be read: the file is damaged, copy it again") from None
    for section in found:
        if not end <= section.begin <= section.end <= length:
            raise BundleError(
                f"{path} puts {section.kind} at bytes {section.begin} to {section.end} of {length}: copy the file again"
            )
    return found


def find_section(path: Path, kind: str) -> Section:
    """The only section of ``kind``; raises :class:`BundleError` if there is none or more than one."""
    found = [s for s in sections(path) if s.kind == kind]
    if len(found) != 1:
        raise BundleError(f"{path} has {len(found)} sections of kind {kind}, expected one")
    return found[0]


def entry_points(path: Path) -> dict[str, list[int]]:
    """Bytes ``[begin, end]`` of the models that our loop over all sizes of an elastic bundle runs, by purpose."""
    wanted = {"decoder": ELASTIC_VIEW, "embedder": "embedder", "per_layer_embedder": "per_layer_embedder"}
    wanted["tokenizer"] = "sp_tokenizer"
    found = {name: find_section(path, kind) for name, kind in wanted.items()}
    return {name: [section.begin, section.end] for name, section in found.items()}


def section_digest(path: Path, kind: str) -> tuple[str, int]:
    """SHA-256 and length in bytes of the section of ``kind``."""
    section = find_section(path, kind)
    digest = hashlib.sha256()
    for block in _content(path, section):
        digest.update(block)
    return digest.hexdigest(), section.end - section.begin


def extract(path: Path, kind: str, out: Path) -> Section:
    """Copy the bytes of the section of ``kind`` to ``out``."""
    section = find_section(path, kind)
    with out.open("wb") as target:
        target.writelines(_content(path, section))
    return section


def _content(path: Path, section: Section) -> Iterator[bytes]:
    remaining = section.end - section.begin
    with path.open("rb") as source:
        source.seek(section.begin)
        while remaining:
            block = source.read(min(remaining, 1 << 20))
            if not block:
                raise BundleError(f"{path} ended while {section.kind} was being read: copy the file again")
            yield block
            remaining -= len(block)


def _header(kinds: Sequence[SectionKind], views: Sequence[View], in_float32: Collection[SectionKind]) -> Any:
    """The header with placeholder offsets. They must not be 0, because a flatbuffer leaves out default values."""
    data_types = {kind: data_type for data_type, kind in DATA_KINDS.items()}
    objects = []
    for kind in kinds:
        model = kind in MODEL_KINDS or kind in TOWER_KINDS
        items = [_text_pair(MODEL_KEY, MODEL_PREFIX + kind)] if model else []
        if kind in in_float32:
            items.append(_text_pair(ACTIVATION_KEY, FLOAT32))
        data_type = schema.AnySectionDataType.TFLiteModel if model else data_types[kind]
        objects.append(schema.SectionObjectT(items=items, dataType=data_type, beginOffset=1, endOffset=1))
    for view in views:
        # If it were declared as a model, the engine would require a known model type.
        data_type = schema.AnySectionDataType.GenericBinaryData
        items = [_text_pair(VIEW_KEY, view.name)]
        objects.append(schema.SectionObjectT(items=items, dataType=data_type, beginOffset=1, endOffset=1))
    return schema.LiteRTLMMetaDataT(
        systemMetadata=schema.SystemMetadataT(entries=[_text_pair("Authors", "g3n")]),
        sectionMetadata=schema.SectionMetadataT(objects=objects),
    )


def _text_pair(key: str, value: str) -> Any:
    return schema.KeyValuePairT(key=key, value=schema.StringValueT(value), valueType=schema.VData.StringValue)


def _section(entry: Any) -> Section:
    begin, end, data_type = entry.BeginOffset(), entry.EndOffset(), entry.DataType()
    if data_type == schema.AnySectionDataType.TFLiteModel:
        return Section(_text_item(entry, MODEL_KEY).removeprefix(MODEL_PREFIX), begin, end)
    if data_type == schema.AnySectionDataType.GenericBinaryData and entry.ItemsLength():
        return Section(_text_item(entry, VIEW_KEY), begin, end)
    return Section(DATA_KINDS.get(data_type) or core.any_section_data_type_to_string(data_type), begin, end)


def _text_item(entry: Any, key: str) -> str:
    pairs = [entry.Items(i) for i in range(entry.ItemsLength())]
    table = next(pair.Value() for pair in pairs if pair.Key() == key.encode())
    # The generated object API cannot unpack the union, so the string is read through its table.
    text = schema.StringValue()
    text.Init(table.Bytes, table.Pos)
    return str(text.Value().decode())


def _pack(header: Any) -> bytes:
    builder = flatbuffers.Builder(core.BLOCK_SIZE)
    builder.Finish(header.Pack(builder))
    return bytes(builder.Output())


def _round_up(position: int) -> int:
    return -(-position // core.BLOCK_SIZE) * core.BLOCK_SIZE


def _write_bytes(content: bytes) -> Writer:
    def write(file: BinaryIO) -> None:
        file.write(content)

    return write


def _write_tokenizer(tokenizer: bytes | Path) -> Writer:
    if isinstance(tokenizer, bytes):
        return _write_bytes(tokenizer)
    content = tokenizer.read_bytes()
    return _write_bytes(struct.pack("<Q", len(content)) + zlib.compress(content))


def _copy_file(source: Path) -> Writer:
    def write(file: BinaryIO) -> None:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file, 1 << 20)

    return write
