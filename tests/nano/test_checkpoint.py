"""The embedded checkpoint: small, complete, sliceable, and trained: it reads, sees and hears."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from g3n_compiler.nano import SKIPPABLE, checkpoint_dir, heldout_path
from g3n_compiler.nano.tasks import Example, first_of_each, read_examples
from nano_training import corpus, evaluate, heldout_senses, towers
from nano_training.broken import MECHANISMS
from nano_training.config import FFN_WIDTH, slice_config
from nano_training.elastic import initialize
from nano_training.evaluate_senses import Reference, accuracy, measure, word_error_rate
from nano_training.evaluate_tasks import score
from nano_training.tasks.mixture import TASKS
from nano_training.tokens import encode_documents

MAX_BYTES = 24 * 10**6
MAX_PERPLEXITY = 14.0
MAX_SMALLEST_PERPLEXITY = 14.5
SUBSET = 80
DIGITS, SCENES, CLIPS = 20, 10, 15
TASK_EXAMPLES = 6
MIN_SOLVED = dict.fromkeys(TASKS, 0.8) | {"lookup-1500": 0.6}
MIN_DIGITS, MIN_SCENES, MAX_WORD_ERRORS = 0.8, 0.5, 0.35


@pytest.fixture(scope="module")
def model() -> Any:
    return evaluate.load(checkpoint_dir())


@pytest.fixture(scope="module")
def documents() -> list[Tensor]:
    return encode_documents(corpus.read_documents(heldout_path())[:SUBSET], checkpoint_dir() / "tokenizer.json")


def test_size_and_files() -> None:
    files = {path.name: path.stat().st_size for path in checkpoint_dir().iterdir()}
    assert set(files) == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= MAX_BYTES


def test_structure_is_the_real_one() -> None:
    config = json.loads((checkpoint_dir() / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["Gemma3nForConditionalGeneration"]
    text = config["text_config"]
    assert text["layer_types"] == (["sliding_attention"] * 4 + ["full_attention"]) * 2
    assert text["num_kv_shared_layers"] == 5
    assert text["activation_sparsity_pattern"] == [0.95] * 3 + [0.0] * 7
    assert (text["vocab_size"], text["vocab_size_per_layer_input"]) == (4352, 4096)
    assert config["eos_token_id"] == [1, 106]
    assert config["vision_config"]["architecture"] == "mobilenetv5_300m_enc"
    assert config["audio_config"]["conf_num_hidden_layers"] == 3
    assert (config["vision_soft_tokens_per_image"], config["audio_soft_tokens_per_image"]) == (256, 188)


def test_tensors_are_bf16_and_finite() -> None:
    with safe_open(checkpoint_dir() / "model.safetensors", framework="pt") as tensors:
        names = set(tensors.keys())
        for name in names:
            tensor = tensors.get_tensor(name)
            assert tensor.dtype == torch.bfloat16
            assert tensor.isfinite().all(), name
    whole = towers.build(towers.text_weights(checkpoint_dir())).state_dict()
    dead = {
        f"model.language_model.layers.{layer}.self_attn.{part}.weight"
        for layer in range(5, 10)
        for part in ("k_proj", "v_proj", "k_norm")
    }
    assert names == {name for name in whole if not name.startswith("lm_head.")} | dead


def test_it_sees_and_hears() -> None:
    """A few of the held-out questions through the library; the README has the figures of all."""
    results = measure(Reference(checkpoint_dir()), heldout_senses.questions(DIGITS, SCENES, CLIPS))
    assert accuracy(results, "digit") >= MIN_DIGITS
    assert accuracy(results, "scene") >= MIN_SCENES
    assert word_error_rate(results) <= MAX_WORD_ERRORS


@pytest.fixture(scope="module")
def few() -> list[Example]:
    """Held-out examples of each text task."""
    return [e for e in first_of_each(read_examples(), TASK_EXAMPLES) if not e.media]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))


def test_it_solves_its_tasks(model: Any, tokenizer: Tokenizer, few: list[Example]) -> None:
    """Some of the held-out examples; docs/quality.md has the figures of all."""
    found = score(model, tokenizer, few).accuracy(few)
    assert found.keys() == MIN_SOLVED.keys()
    assert {task: value for task, value in found.items() if value < MIN_SOLVED[task]} == {}


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_broken_mechanism_shows(name: str, tokenizer: Tokenizer, few: list[Example]) -> None:
    """Each one changes how likely the right answers are, so that no break of the list breaks nothing."""
    asked = [e for e in few if e.task in ("sum", "lookup-300")][:8]
    broken = evaluate.load(checkpoint_dir())
    before = score(broken, tokenizer, asked).likelihood
    with torch.no_grad():
        MECHANISMS[name](broken)
    assert (score(broken, tokenizer, asked).likelihood == before) == (name == "nothing")


def test_heldout_perplexity(model: Any, documents: list[Tensor]) -> None:
    assert evaluate.perplexity(model, documents) < MAX_PERPLEXITY


def test_smallest_slice_works(model: Any, documents: list[Tensor]) -> None:
    smallest = evaluate.sliced(model, FFN_WIDTH // 2, SKIPPABLE)
    assert len(smallest.model.layers) == 8
    assert evaluate.perplexity(smallest, documents) < MAX_SMALLEST_PERPLEXITY


def test_whole_slice_is_the_model(model: Any, documents: list[Tensor]) -> None:
    whole = evaluate.sliced(model, FFN_WIDTH)
    assert evaluate.losses(whole, documents[:4]) == evaluate.losses(model, documents[:4])


def test_kv_owners_cannot_be_skipped(model: Any) -> None:
    with pytest.raises(ValueError, match="own no KV"):
        slice_config(model.config, [FFN_WIDTH] * 9, (4,))


def test_int4_hurts_and_int8_does_not(model: Any, documents: list[Tensor]) -> None:
    full = evaluate.perplexity(model, documents)
    assert evaluate.perplexity(evaluate.rounded(model, 8), documents) < full * 1.005
    assert evaluate.perplexity(evaluate.rounded(model, 4), documents) > full * 1.02


def test_answers_end_by_themselves(model: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir())
    messages = [{"role": "user", "content": "What is a river?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    output = model.generate(prompt, max_new_tokens=64, do_sample=False)[0, prompt.shape[1] :].tolist()
    assert output[-1] == 106
    assert len(output) > 3


def test_untrained_model_is_far_worse(model: Any, documents: list[Tensor]) -> None:
    torch.manual_seed(0)
    fresh = type(model)(model.config).eval()
    initialize(fresh)
    assert evaluate.perplexity(fresh, documents[:8]) > 1000


def test_heldout_documents_are_prompts() -> None:
    documents = corpus.read_documents(heldout_path())
    assert {d.kind for d in documents} == {"chat-wordnet", "chat-kjv", "plain-kjv"}
    for document in documents:
        ends = "<eos>" if document.kind == "plain-kjv" else "<end_of_turn>\n"
        assert document.text.endswith(ends)
    assert heldout_path().stat().st_size < 500_000
