"""Readers of a checkpoint's files, each in the folder of nano's own checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.case import Case, Entry
from tests.fuzz.mutate_bytes import (
    damaged,
    edited_parts,
    protobuf_fields,
    protobuf_of,
    protobuf_resized,
)
from tests.fuzz.mutate_json import edited_json
from tests.fuzz.reader import Reader, files

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SNIPPETS = (
    *('{{ "x" * 4000000000 }}', "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"),
    *("{{ ''.__class__.__mro__ }}", "{{ [1] * 10000000000 }}", "{{ 9 ** 99999999 }}", "{{ 'a' | center(4000000000) }}"),
    *("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}"),
    *("{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ undefined.x.y }}", "{% raw %}", "{%", "{{", "{#", "}}", "%}"),
    *("{{ messages[0]['content'][99] }}", "{{ messages | tojson(indent=99999999) }}", "{% set x = 'x' * 1000000 %}"),
    *(
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ range(1000000000) | list }}",
        "\0",
        "\x1b[2J",
    ),
    *("{{ dict(a=1).update(a=2) }}", "{{ cycler.__init__.__globals__ }}", "{{ lipsum(n=1000000) }}", "{{ loop }}"),
    *("{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",),
    *("{{ (" * 200 + "1" + ") }}" * 200, "{% if a %}" * 500, "{{ 'a' if " * 300, "{{ -" + "-" * 5000 + "1 }}", "{{ '"),
    *("{% call %}", "{% extends x %}", "{% block a %}{% endblock %}", "{% generation %}x{% endgeneration %}", "\ud7ff"),
    *(
        "{{ strftime_now('%Y') }}",
        "{% break %}",
        "{% do x %}",
        "{{ messages | map('upper') | list | string * 100000 }}",
    ),
)
TAIL_BYTES = (0, 0, 0, 1, -1, 16, -4096)


def nano(folder: Path, *without: str) -> None:
    """Nano's checkpoint, its weights as they are."""
    from g3n_compiler.nano import checkpoint_dir

    for path in checkpoint_dir().iterdir():
        if path.name not in (*without, "README.md"):
            (folder / path.name).write_bytes(path.read_bytes())


def without_tokenizer_model(folder: Path) -> None:
    nano(folder, "tokenizer.model")


def in_shards(folder: Path) -> None:
    """Nano's tensors as zeros in two shards that take no room on the disk."""
    nano(folder, WEIGHTS)
    from g3n_compiler.nano import checkpoint_dir

    header, _ = split_header((checkpoint_dir() / WEIGHTS).open("rb").read(1 << 20))
    names = sorted(name for name in header if name != "__metadata__")
    weight_map = {}
    for shard, mine in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        entries, at = {}, 0
        for name in mine:
            begin, end = header[name]["data_offsets"]
            entries[name] = {**header[name], "data_offsets": [at, at + end - begin]}
            at += end - begin
            weight_map[name] = shard
        head = joined_header(json.dumps(entries).encode())
        (folder / shard).write_bytes(head)
        os.truncate(folder / shard, len(head) + at)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def split_header(data: bytes) -> tuple[dict[str, Any], int]:
    """Header of a safetensors file, and its length in bytes."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), length


def joined_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def seed_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def json_of(name: str) -> Callable[[Path], st.SearchStrategy[Case]]:
    """Edits of the JSON file ``name`` of the seed's folder."""
    return lambda folder: files(name, edited_json([seed_of(folder / name)]))


def safetensors_cases(name: str) -> Callable[[Path], st.SearchStrategy[Case]]:
    """Edits of a safetensors file's header; its tensors are zeros."""

    def cases(folder: Path) -> st.SearchStrategy[Case]:
        header, length = split_header((folder / name).read_bytes())
        body = (folder / name).stat().st_size - 8 - length
        few = dict(list(header.items())[:3])
        seeds = [joined_header(json.dumps(h).encode()) for h in (header, few)]

        def of(head: bytes, tail: int) -> Case:
            return {name: Entry(data=head, size=max(0, len(head) + body + tail))}

        tails = st.sampled_from(TAIL_BYTES)
        edited = st.builds(of, edited_json([header, header, few]).map(joined_header), tails)
        return st.one_of(edited, edited, edited, st.builds(of, damaged(seeds), tails), files(name, damaged(seeds)))

    return cases


def processor_cases(folder: Path) -> st.SearchStrategy[Case]:
    seed = seed_of(folder / "processor_config.json")
    old = {**seed["image_processor"], "do_normalize": True, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    return st.one_of(
        files("processor_config.json", edited_json([seed, {"image_processor": old}])),
        files("preprocessor_config.json", edited_json([old])),
    )


def tokenizer_model_cases(folder: Path) -> st.SearchStrategy[Case]:
    seed = (folder / "tokenizer.model").read_bytes()
    parts = protobuf_fields(seed)
    small = protobuf_of([*parts[:300], *[p for p in parts if p[0] != 0x0A]])
    contents = st.one_of(
        damaged([seed, small]),
        edited_parts([seed, small], protobuf_fields, protobuf_of),
        edited_parts([seed, small], protobuf_fields, protobuf_resized),
    )
    return files("tokenizer.model", contents)


def template_cases(folder: Path) -> st.SearchStrategy[Case]:
    seed = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = seed_of(folder / "tokenizer_config.json")

    def inserted(at: float, length: int, snippet: str) -> str:
        begin = int(at * len(seed))
        return seed[:begin] + snippet + seed[begin + length :]

    lengths = st.sampled_from((0, 0, 1, 5, 50, 5000))
    texts = st.one_of(
        st.sampled_from(SNIPPETS), st.builds(inserted, st.floats(0, 1), lengths, st.sampled_from((*SNIPPETS, "")))
    )
    return st.one_of(
        files("chat_template.jinja", texts.map(lambda t: t.encode("utf-8", "surrogatepass"))),
        files("chat_template.jinja", damaged([seed.encode()])),
        st.builds(
            lambda text: {
                "chat_template.jinja": Entry("missing"),
                "tokenizer_config.json": Entry(data=json.dumps({**settings, "chat_template": text}).encode()),
            },
            texts,
        ),
        st.builds(
            lambda data: {"chat_template.jinja": Entry("missing"), "tokenizer_config.json": Entry(data=data)},
            edited_json([{**settings, "chat_template": seed}, {**settings, "chat_template": [{"template": seed}]}]),
        ),
    )


def adapter(folder: Path) -> None:
    """A LoRA adapter of rank 2 over one matrix of nano's."""
    import torch
    from safetensors.torch import save_file

    from g3n_compiler.nano import checkpoint_dir
    from g3n_compiler.source import Source

    source = Source.open(checkpoint_dir())
    tensors = {}
    for layer in (0, 1):
        name = source.tensor_name(f"layers.{layer}.self_attn.q_proj.weight")
        rows, columns = source.checkpoint.entries[name].shape
        key = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = torch.ones(2, columns), torch.ones(rows, 2)
    source.close()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "target_modules": ["q_proj"],
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "fan_in_fan_out": False,
        "task_type": "CAUSAL_LM",
        "lora_dropout": 0.0,
        "base_model_name_or_path": "x",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def adapter_cases(folder: Path) -> st.SearchStrategy[Case]:
    return st.one_of(json_of("adapter_config.json")(folder), safetensors_cases("adapter_model.safetensors")(folder))


def open_compile() -> Callable[[Path], object]:
    """``g3n-compile``'s own steps, as far as it hashes the checkpoint."""
    from g3n_compiler.compile import CompileOptions, compile_bundle
    from g3n_compiler.lower.artifact import Lowered
    from g3n_compiler.lower.job import Job
    from g3n_compiler.nano import checkpoint_dir
    from tests.fakes import FakeBackend

    class Read(Exception):
        """All has been read."""

    class Backend(FakeBackend):
        modalities = ("text", "vision", "audio")

        def lower(self, job: Job) -> Lowered:
            raise Read

    def progress(line: str) -> None:
        if line.startswith("hashing"):
            raise Read

    def read(folder: Path) -> None:
        with contextlib.suppress(Read):
            compile_bundle(CompileOptions(checkpoint=folder, out=folder.with_name("out")), progress, Backend)

    read(checkpoint_dir())  # imports what compares prompts, so that no case pays for it
    return read


def open_text_config() -> Callable[[Path], object]:
    from g3n_compiler.checkpoint.tokenizer import load_tokenizer
    from g3n_compiler.models.gemma3n.text_config import load_text_config

    return lambda folder: load_tokenizer(folder, load_text_config(folder))


def open_processor() -> Callable[[Path], object]:
    from g3n_compiler.models.gemma3n.image_processor import load_resample, load_side
    from g3n_compiler.models.gemma3n.vision_layout import read_layout
    from g3n_compiler.nano import checkpoint_dir
    from g3n_compiler.source import Source

    vision = Source.open(checkpoint_dir()).vision
    assert vision is not None
    layout = read_layout(vision)

    def read(folder: Path) -> None:
        load_resample(folder)
        layout.check_resolution(load_side(folder) or 768)

    return read


def open_tokenizer() -> Callable[[Path], object]:
    """The tokenizer as a compile takes it, and as it goes into an ExecuTorch bundle."""
    from g3n_compiler.checkpoint.tokenizer import load_tokenizer
    from g3n_compiler.checkpoint.tokenizer_json import for_executorch
    from g3n_compiler.models.gemma3n.text_config import load_text_config
    from g3n_compiler.nano import checkpoint_dir

    config = load_text_config(checkpoint_dir())

    def read(folder: Path) -> None:
        tokenizer = load_tokenizer(folder, config)
        for stop in tokenizer.stop_ids:
            tokenizer.token(stop)
        tokenizer.decode(tokenizer.chat("What is a river?\n é\u0000 <bos> 漢字"))
        for_executorch(tokenizer.json_path, config.vocab_size)

    return read


def open_sentencepiece() -> Callable[[Path], object]:
    """A ``tokenizer.model`` as it goes into a bundle, which an engine must then be able to load."""
    import sentencepiece

    from g3n_compiler.checkpoint.tokenizer import load_tokenizer
    from g3n_compiler.models.gemma3n.text_config import load_text_config
    from g3n_compiler.nano import checkpoint_dir

    config = load_text_config(checkpoint_dir())

    def read(folder: Path) -> None:
        tokenizer = load_tokenizer(folder, config)
        processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.sentencepiece)
        processor.decode(processor.encode("What is a river?\n é 漢字"))

    return read


def open_template() -> Callable[[Path], object]:
    from g3n_compiler.checkpoint.tokenizer import load_tokenizer
    from g3n_compiler.models.gemma3n.text_config import load_text_config
    from g3n_compiler.nano import checkpoint_dir

    config = load_text_config(checkpoint_dir())
    return lambda folder: load_tokenizer(folder, config)


def open_adapter() -> Callable[[Path], object]:
    from g3n_compiler.nano import checkpoint_dir
    from g3n_compiler.source import Source

    source = Source.open(checkpoint_dir())

    def read(folder: Path) -> None:
        adapted = source.adapted(folder)
        assert adapted.adapter is not None
        for name in adapted.adapter.pairs:
            adapted.read_relative(name.removeprefix(source.text_prefix), (0, 1))

    return read


READERS = (
    Reader("safetensors header", nano, safetensors_cases(WEIGHTS), open_compile),
    Reader("index", in_shards, json_of(INDEX), open_compile),
    Reader("config", nano, json_of("config.json"), open_compile),
    Reader("generation", nano, json_of("generation_config.json"), open_text_config),
    Reader("processor", nano, processor_cases, open_processor),
    Reader("tokenizer.json", without_tokenizer_model, json_of("tokenizer.json"), open_tokenizer),
    Reader("tokenizer.model", nano, tokenizer_model_cases, open_sentencepiece),
    Reader("template", nano, template_cases, open_template),
    Reader("adapter", adapter, adapter_cases, open_adapter),
)
