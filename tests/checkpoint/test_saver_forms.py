"""Random combinations of the forms in which people save a checkpoint: nano, or a refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from g3n_compiler.checkpoint.generation import Sampler
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import CheckpointError
from g3n_compiler.models.gemma3n.folder_check import check_folder
from g3n_compiler.models.gemma3n.image_processor import load_resample, load_side
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.nano import checkpoint_dir
from tests.checkpoint.forms import TEXT, Tensors, config_of, opened, save, save_shards, tensors_of, values
from tests.prompts import nano_tokenizer

EXAMPLES = 60
TEMPLATE = (checkpoint_dir() / "chat_template.jinja").read_text(encoding="utf-8")
Json = dict[str, Any]


class Form(NamedTuple):
    """One way in which a part of a checkpoint is saved."""

    name: str
    write: Callable[[Path], None]
    refused: bool = False


def read(name: str) -> Json:
    content: Json = json.loads((checkpoint_dir() / name).read_text(encoding="utf-8"))
    return content


def copy(path: Path, *names: str) -> None:
    for name in names:
        shutil.copyfile(checkpoint_dir() / name, path / name)


def put(path: Path, name: str, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (path / name).write_text(text, encoding="utf-8")


@cache
def nano() -> Tensors:
    return tensors_of(checkpoint_dir())


@cache
def nano_values() -> Tensors:
    return values(opened(checkpoint_dir())[0])


PREFIXES: dict[str, Callable[[str], str]] = {
    "own": lambda name: name,
    "of the base model": lambda name: name.removeprefix("model."),
    "double": lambda name: name.replace(TEXT, "model.language_model.model."),
    "DDP": lambda name: f"module.{name}",
}
HEADS = ("none", "the table's", "in the text model", "another one")
LAYOUTS = ("one file", "shards", "one file beside stale shards", "an index with a head")
TEMPLATES = (
    Form("jinja", lambda p: put(p, "chat_template.jinja", TEMPLATE)),
    Form("the older file", lambda p: put(p, "chat_template.json", {"chat_template": TEMPLATE})),
    Form("jinja beside a stale one in the tokenizer's", lambda p: put(p, "chat_template.jinja", TEMPLATE)),
    Form("none", lambda p: None),
    Form("without bos", lambda p: put(p, "chat_template.jinja", TEMPLATE.replace("{{- bos_token -}}", "")), True),
)
MODELS = (
    Form("own", lambda p: copy(p, "tokenizer.model")),
    Form("none", lambda p: None),
    Form("empty", lambda p: put(p, "tokenizer.model", "")),
    Form("a pointer", lambda p: put(p, "tokenizer.model", "version https://git-lfs.github.com/spec/v1\n"), True),
)
STALE_PROCESSOR = {"size": {"height": 512, "width": 512}, "resample": 2, "do_rescale": True, "do_normalize": None}
PROCESSORS = (
    Form("new", lambda p: copy(p, "processor_config.json")),
    Form(
        "new beside old",
        lambda p: (copy(p, "processor_config.json"), put(p, "preprocessor_config.json", STALE_PROCESSOR))[0],
    ),
    Form(
        "another rescaling",
        lambda p: put(
            p,
            "processor_config.json",
            (new := read("processor_config.json"))
            | {"image_processor": new["image_processor"] | {"do_rescale": False}},
        ),
        True,
    ),
)
OWN_SAMPLER = Sampler(1.0, 64, 0.95)
GENERATIONS: dict[str, tuple[Json | None, Sampler]] = {
    "own": (read("generation_config.json"), OWN_SAMPLER),
    "none": (None, OWN_SAMPLER),
    "greedy": ({"do_sample": False, "temperature": None, "eos_token_id": [1, 106]}, Sampler(0.0, 1, 1.0)),
    "nulls": ({"do_sample": True, "temperature": None, "top_k": None, "eos_token_id": None}, Sampler(1.0, 50, 1.0)),
}


def write_weights(path: Path, prefix: str, dtype: torch.dtype, head: str, layout: str) -> None:
    tensors = {PREFIXES[prefix](name): tensor.to(dtype) for name, tensor in nano().items()}
    if head != "none":
        table = nano()[TEXT + "embed_tokens.weight"].to(dtype)
        name = "model.language_model.lm_head.weight" if head == "in the text model" else "lm_head.weight"
        tensors[name] = table + 1 if head == "another one" else table
    config = config_of(checkpoint_dir())
    if layout == "one file":
        save(path, tensors, config)
        return
    names = sorted(tensors)
    halves = [{n: tensors[n] for n in part} for part in (names[: len(names) // 2], names[len(names) // 2 :])]
    more = {"lm_head.weight": "model-00002-of-00002.safetensors"} if layout == "an index with a head" else {}
    if layout == "one file beside stale shards":
        halves = [{n: torch.zeros_like(t) for n, t in half.items()} for half in halves]
    save_shards(path, halves, config, more)
    if layout == "one file beside stale shards":
        save(path, tensors, config)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    prefix=st.sampled_from([*PREFIXES, "own", "double"]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    head=st.sampled_from([*HEADS, "none", "none"]),
    layout=st.sampled_from(LAYOUTS),
    template=st.sampled_from([*TEMPLATES, *TEMPLATES[:4]]),
    model=st.sampled_from([*MODELS, *MODELS[:3]]),
    processor=st.sampled_from([*PROCESSORS, *PROCESSORS[:2]]),
    generation=st.sampled_from(sorted(GENERATIONS)),
)
def test_any_combination_is_nano_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    prefix: str,
    dtype: torch.dtype,
    head: str,
    layout: str,
    template: Form,
    model: Form,
    processor: Form,
    generation: str,
) -> None:
    path = tmp_path_factory.mktemp("form")
    write_weights(path, prefix, dtype, head, layout)
    copy(path, "tokenizer.json", "tokenizer_config.json")
    if "stale one" in template.name:
        stale = TEMPLATE.replace("<start_of_turn>", "[[")
        put(path, "tokenizer_config.json", read("tokenizer_config.json") | {"chat_template": stale})
    for part in (template, model, processor):
        part.write(path)
    content, sampler = GENERATIONS[generation]
    if content is not None:
        put(path, "generation_config.json", content)
    refused = prefix == "DDP" or head == "another one" or any(p.refused for p in (template, model, processor))
    event("refused" if refused else "taken")
    try:
        source, _, _ = opened(path)
        check_folder(source)
        tokenizer = load_tokenizer(path, gemma3n_config(source.text), source.modalities)
        found = values(source)
        shape = load_side(path), load_resample(path)
        ids = tokenizer.chat("  What is\n a dog? ")
        source.close()
    except CheckpointError:
        assert refused
        return
    finally:
        shutil.rmtree(path)
    assert not refused
    assert found.keys() == nano_values().keys()
    assert all(torch.equal(value, nano_values()[name]) for name, value in found.items())
    assert ids == nano_tokenizer().chat("  What is\n a dog? ")
    assert tokenizer.sampler == sampler and tokenizer.turn_end in tokenizer.stop_ids
    assert shape == (load_side(checkpoint_dir()), load_resample(checkpoint_dir()))
