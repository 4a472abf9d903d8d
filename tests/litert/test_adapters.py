"""LoRA adapters that the stock engine adds while it runs, held against the checkpoint with the adapter merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litert_lm
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from g3n_compiler.cli.lora_file import folded
from g3n_compiler.errors import CheckpointError
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.adapter_file import write_adapter_file
from g3n_compiler.lower.litert.adapters import LiteRtAdapted, input_values, rewrites_of, rotations
from g3n_compiler.lower.litert.opened import open_tokenizer
from g3n_compiler.lower.litert.text import convert
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.rewrite.apply import Rewrites
from g3n_compiler.slice.plan import Slice
from g3n_compiler.source import Source
from g3n_compiler.verify.adapters import random_adapter
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.layers import layer_errors
from g3n_compiler.verify.reference import Reference
from g3n_runtime.chat import GREEDY
from g3n_runtime.errors import HashMismatch
from g3n_runtime.litert import engine as runtime
from g3n_runtime.litert.chat import LiteRtChat
from g3n_runtime.litert.engine import LiteRtEngine
from tests.checkpoint.adapters import ATTENTION, edit_tensors, write_adapter
from tests.conftest import TinyModel, ids_of, make_tiny
from tests.litert.conftest import CACHE, CONTEXT, PREFILL, Converted

RANK = 16
PROMPT = "What is a river, and where does it go to?"
COUNT = 12
PLAIN = Rewrites({})


@dataclass(frozen=True)
class Adaptable:
    """A model of three layers, the last of which reads the first one's keys and values, and its graph of rank 16."""

    tiny: TinyModel
    converted: Converted
    path: Path
    """The ``.litertlm`` in float32."""

    def adapter(self, folder: Path, seed: int = 0, **options: Any) -> Path:
        """An adapter that PEFT has written for the model, with values that change the answer."""
        write_adapter(self.tiny.hf, folder, **{"target_modules": ATTENTION, **options})
        generator = torch.Generator().manual_seed(seed)
        edit_tensors(folder, lambda name, value: (name, torch.randn(value.shape, generator=generator) * 0.3))
        return folder

    def file(self, adapter: Path) -> Path:
        """The adapter's file for the graph in float32."""
        path = adapter.with_name(f"{adapter.name}.tflite")
        write_adapter_file(path, input_values(folded(self.adapted(adapter), PLAIN, RANK), RANK), RANK, "any")
        return path

    def adapted(self, adapter: Path) -> Source:
        return self.tiny.open().adapted(adapter)

    def says(self, source: Source) -> str:
        """The greedy answer of a source in float32 to the bare prompt."""
        codec = open_tokenizer(self.path)
        return str(codec.decode(Reference(source).greedy([2, *codec.encode(PROMPT)], COUNT)[0]))


@pytest.fixture(scope="module")
def adaptable(tmp_path_factory: pytest.TempPathFactory) -> Adaptable:
    folder = tmp_path_factory.mktemp("adaptable")
    tiny = make_tiny(
        folder / "checkpoint",
        num_hidden_layers=3,
        num_kv_shared_layers=1,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        activation_sparsity_pattern=[0.95, 0.0, 0.0],
    )
    source = tiny.open()
    graph = convert(source.text, CONTEXT, [PREFILL], cache_length=CACHE, lora_rank=RANK)
    converted = Converted(source, graph, folder)
    return Adaptable(tiny, converted, converted.pack("fp32", folder / "model.litertlm"))


@pytest.fixture(scope="module")
def adapters(adaptable: Adaptable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters: ``A`` of rank 4, ``B`` of the graph's own."""
    folder = tmp_path_factory.mktemp("adapters")
    return {"A": adaptable.adapter(folder / "A", 1), "B": adaptable.adapter(folder / "B", 2, r=RANK)}


@pytest.fixture(scope="module")
def files(adaptable: Adaptable, adapters: dict[str, Path]) -> dict[str, Path]:
    """Their files, and the one that stands for none."""
    found = {name: adaptable.file(folder) for name, folder in adapters.items()}
    found["none"] = found["A"].with_name("none.tflite")
    zeros = {name: value * 0 for name, value in input_values(random_adapter(adaptable.tiny.open(), RANK), RANK).items()}
    write_adapter_file(found["none"], zeros, RANK, "any")
    return found


@pytest.fixture(scope="module")
def wanted(adaptable: Adaptable, adapters: dict[str, Path]) -> dict[str, str]:
    """What the checkpoint says with each adapter merged into its weights, and without."""
    found = {name: adaptable.says(adaptable.adapted(folder)) for name, folder in adapters.items()}
    found["none"] = adaptable.says(adaptable.tiny.open())
    assert len(set(found.values())) == len(found)
    return found


@pytest.fixture(scope="module")
def stock(adaptable: Adaptable) -> Iterator[Any]:
    """The engine as an app has it."""
    with litert_lm.Engine(str(adaptable.path), cache_dir=":nocache") as engine:
        yield engine


def ask(engine: Any, file: Path) -> str:
    sampler = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=0.0)
    session = engine.create_session(
        apply_prompt_template=False,
        sampler_config=sampler,
        max_output_tokens=COUNT,
        lora_config=litert_lm.LoraConfig(lora_path=str(file)),
    )
    with session:
        session.run_prefill([PROMPT])
        return "".join(r.texts[0] for r in session.run_decode_async() if r.texts)


def test_one_engine_says_what_each_merged_checkpoint_says(
    stock: Any, files: dict[str, Path], wanted: dict[str, str]
) -> None:
    for name in ("none", "A", "B", "A", "none"):
        assert ask(stock, files[name]) == wanted[name], name


def test_conversations_of_one_engine_keep_their_adapters(stock: Any, files: dict[str, Path]) -> None:
    """Turn by turn, what each says alone."""
    sampler = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=0.0)

    def talk(name: str) -> Any:
        lora = litert_lm.LoraConfig(lora_path=str(files[name]))
        return stock.create_conversation(sampler_config=sampler, max_output_tokens=6, lora_config=lora)

    def said(conversation: Any) -> Any:
        return conversation.send_message("Hi, river?").to_json()["content"]

    alone = {}
    for name in ("A", "B"):
        with talk(name) as conversation:
            alone[name] = [said(conversation) for _ in range(2)]
    assert alone["A"] != alone["B"]
    with talk("A") as a, talk("B") as b:
        turns = [(said(a), said(b)) for _ in range(2)]
    assert [list(each) for each in zip(*turns, strict=True)] == [alone["A"], alone["B"]]


def test_our_engine_is_loaded_anew_before_it_keeps_too_much(
    adaptable: Adaptable, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "MOST_LENT", 2)
    chat = LiteRtChat(adaptable.path, adapter=files["A"])
    answers, engines = [], []
    for _ in range(3):
        chat.reset()
        answers.append("".join(chat.send("Hi", GREEDY, 6)))
        engines.append(chat._engine)
    assert len(set(answers)) == 1 and engines[0] is engines[1] is not engines[2]
    chat.close()
    with LiteRtEngine(adaptable.path, threads=1, adapter=files["none"]) as engine:
        assert "".join(engine.generate("Hi", GREEDY, 6)) != answers[0]


@pytest.mark.parametrize("rank", [4, 8])
def test_the_engine_takes_rank_16_and_32_alone(
    stock: Any, files: dict[str, Path], rank: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Why ``--lora-rank`` refuses others; if this fails, the engine has learned more ranks."""
    write_adapter_file(tmp_path / "other.tflite", {}, rank, "any")
    with pytest.raises(RuntimeError):
        ask(stock, tmp_path / "other.tflite")
    assert "rank 16 and 32" in capfd.readouterr().err


def test_an_engine_with_an_adapter_keeps_it_for_who_brings_none(stock: Any, files: dict[str, Path]) -> None:
    """Why every conversation is given a file; if this fails, the engine has been repaired (docs/upstream)."""
    with_adapter = ask(stock, files["A"])
    session = stock.create_session(
        apply_prompt_template=False,
        sampler_config=litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=0.0),
        max_output_tokens=COUNT,
    )
    with session:
        session.run_prefill([PROMPT])
        assert "".join(r.texts[0] for r in session.run_decode_async() if r.texts) == with_adapter


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4"])
def test_the_graph_adds_an_adapter_as_the_reference_does(adaptable: Adaptable, recipe: str, tmp_path: Path) -> None:
    """Each layer alone, prefill and decode; with another adapter than the reference's nearly every layer is off."""
    packed = adaptable.converted.pack(recipe, tmp_path / "model.litertlm")
    source, chosen = adaptable.converted.source, RECIPES[recipe]
    ids = ids_of(PREFILL + 12, source.text.vocab_size)
    adapter, other = random_adapter(source, RANK), random_adapter(source, RANK, seed=1)
    reference = Reference(source, None if recipe == "fp32" else chosen, adapter)

    def errors(added: Any) -> Any:
        entry = LiteRtAdapted("model", added, RANK)
        (layers,) = entry.open_layers({"model": packed}, source.text).values()
        return layer_errors(reference, layers, ids, PREFILL + 4)

    limit = EXACT if recipe == "fp32" else chosen.layer_tolerance
    right, wrong = errors(adapter), errors(other)
    assert right.worst < limit
    assert all(part.worst > 5 * limit for part in wrong.parts if part.name != "head")
    (model,) = (m for _, m in LiteRtAdapted("model", adapter, RANK).open_models({"model": packed}))
    assert relative_error(model.prefilled_logits(ids, PREFILL + 4), right.logits) < EXACT


def test_an_adapter_follows_the_rotation_of_the_weights(
    adaptable: Adaptable, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Of the values and of what reads them; both recipes that round rotate, and the adapter was trained before."""
    source, adapted = adaptable.tiny.open().rewritten(), adaptable.adapted(adapters["A"])
    save_file(rotations(source), tmp_path / "turns.safetensors")
    turns = rewrites_of(source, tmp_path / "turns.safetensors")
    assert set(turns.tensors) == {
        f"layers.{i}.self_attn.{m}_proj.weight" for i, m in [(0, "v"), (1, "v"), (0, "o"), (1, "o"), (2, "o")]
    }
    ids = ids_of(20, source.text.vocab_size)
    want = Reference(adapted).logits(ids).numpy()
    got = Reference(source, None, folded(adapted, turns, RANK)).logits(ids).numpy()
    assert relative_error(got, want) < EXACT
    unturned = Reference(source, None, folded(adapted, PLAIN, RANK)).logits(ids).numpy()
    assert relative_error(unturned, want) > 0.1


def test_a_file_holds_what_the_graph_reads(
    adaptable: Adaptable, adapters: dict[str, Path], files: dict[str, Path]
) -> None:
    """Of the layer without keys and values only its query and output; smaller ranks padded with zeros."""
    content = files["A"].read_bytes()
    model = flatbuffer.parse(content)
    assert [(m.name, m.buffer) for m in model.metadata] == [(b"lora_rank", RANK)] and len(model.buffers) > RANK
    tensors = {t.name.decode(): t for t in model.subgraphs[0].tensors}
    layers = {matrix: {int(n[-1]) for n in tensors if n.startswith(f"lora_atten_{matrix}_")} for matrix in "qkvo"}
    assert layers == {"q": {0, 1, 2}, "k": {0, 1}, "v": {0, 1}, "o": {0, 1, 2}}
    pair = adaptable.adapted(adapters["A"]).adapter
    assert pair is not None
    for part, value in (("a", pair.pairs["model.layers.1.self_attn.k_proj.weight"].a.T), ("b", None)):
        tensor = tensors[f"lora_atten_k_{part}_prime_weight_1"]
        buffer = model.buffers[tensor.buffer]
        read = np.frombuffer(content, np.float32, buffer.size // 4, buffer.offset).reshape(tensor.shape)
        rows = read if part == "b" else read.T
        assert rows.shape[0] == RANK and rows[:4].any() and not rows[4:].any()
        if value is not None:
            np.testing.assert_array_equal(read[:, :4], value.numpy())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": ["q_proj", "down_proj"]}, "mlp.down_proj.weight, but LiteRT-LM adds adapters to q_proj"),
        ({"target_modules": ["q_proj", "per_layer_projection"]}, "per_layer_projection.weight"),
        ({"modules_to_save": ["norm"]}, "replaces model.layers.0.altup.router_norm.weight"),
        ({"trainable_token_indices": [5, 6]}, "replaces model.embed_tokens.weight or rows of it"),
        ({"r": 17}, "rank 17 for model.layers.0.self_attn.k_proj.weight, the bundle takes up to 16"),
    ],
    ids=["ffn", "per-layer", "norm", "tokens", "rank"],
)
def test_what_the_engine_cannot_add_is_refused_by_name(
    adaptable: Adaptable, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write_adapter(adaptable.tiny.hf, tmp_path, **{"target_modules": ATTENTION, **options})
    with pytest.raises(CheckpointError, match=words):
        folded(adaptable.adapted(tmp_path), PLAIN, RANK)


@pytest.fixture(scope="module")
def nano() -> Any:
    from transformers import Gemma3nForConditionalGeneration

    return Gemma3nForConditionalGeneration.from_pretrained(checkpoint_dir(), dtype=torch.float32)


def test_what_has_no_effect_is_left_out(nano: Any, tmp_path: Path) -> None:
    """Keys of a layer that reads another one's; alone they leave nothing to add."""
    write_adapter(nano, tmp_path, target_modules=r".*language_model\.layers\.[01]\.self_attn\.k_proj")
    edit_tensors(tmp_path, lambda name, value: (name.replace("layers.1.", "layers.9."), value))
    source = Source.open(checkpoint_dir(), modalities=("text",))
    assert list(folded(source.adapted(tmp_path), PLAIN, RANK)) == ["layers.0.self_attn.k_proj"]
    edit_tensors(tmp_path, lambda name, value: (name, value) if "layers.9." in name else None)
    with pytest.raises(CheckpointError, match="nothing to add"):
        folded(source.adapted(tmp_path), PLAIN, RANK)


def test_layers_are_numbered_as_in_the_slice(nano: Any, tmp_path: Path) -> None:
    write_adapter(nano, tmp_path, target_modules=r".*language_model\.layers\.[4-7]\.self_attn\.q_proj")
    plan = Slice((0, 1, 2, 3, 4, 7, 8, 9), (256,) * 8)
    sliced = Source.open(checkpoint_dir(), plan, tmp_path, ("text",))
    whole = Source.open(checkpoint_dir(), None, tmp_path, ("text",))
    cut, all_of_them = folded(sliced, PLAIN, RANK), folded(whole, PLAIN, RANK)
    assert list(cut) == ["layers.4.self_attn.q_proj", "layers.5.self_attn.q_proj"]
    assert torch.equal(cut["layers.5.self_attn.q_proj"][0], all_of_them["layers.7.self_attn.q_proj"][0])


def test_adapters_of_towers_are_refused(nano: Any, tmp_path: Path) -> None:
    write_adapter(nano, tmp_path, target_modules=r".*audio_tower.*q_proj")
    source = Source.open(checkpoint_dir(), modalities=("text",)).adapted(tmp_path)
    with pytest.raises(CheckpointError, match=r"audio_tower.*q_proj.*, but LiteRT-LM adds adapters to"):
        folded(source, PLAIN, RANK)


def test_a_file_that_is_changed_while_it_is_used_is_refused(adaptable: Adaptable, files: dict[str, Path]) -> None:
    copy = files["A"].with_name("copy.tflite")
    copy.write_bytes(files["A"].read_bytes())
    with LiteRtEngine(adaptable.path, threads=1, adapter=copy) as engine:
        assert "".join(engine.complete(PROMPT, GREEDY, 3))
        copy.write_bytes(files["B"].read_bytes())
        with pytest.raises(HashMismatch, match="was changed"):
            "".join(engine.complete(PROMPT, GREEDY, 3))
