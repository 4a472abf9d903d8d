"""Prompts of both runtimes against ``transformers``, before anything is lowered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.checkpoint.conversations import Conversation
from g3n_compiler.errors import TokenizerError
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert.prompts import engine_template
from g3n_compiler.lower.litert.wrapped_template import wrapped
from g3n_compiler.lower.prompts import Prompts, RuntimePrompt
from g3n_compiler.lower.registry import get_backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.source import Source
from g3n_compiler.verify.prompts import Spoken, require_equal_prompts
from tests.android.golden import CHATML, NO_SYSTEM
from tests.fakes import FakeBackend
from tests.jobs import make_job

RUNTIMES: tuple[Runtime, ...] = ("litert", "executorch")
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' }}{{ m['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
METHODS = TRIMMED.replace("m['role']", "m['role'].lower()").replace("m['content'] | trim", "m['content'].strip()")
OWN = (checkpoint_dir() / "chat_template.jinja").read_text(encoding="utf-8")
DATED = OWN.replace("{{- bos_token -}}", "{{- bos_token -}}{{- strftime_now('%Y') -}}")


@pytest.fixture
def nano_copy(tmp_path: Path) -> Path:
    """Nano's small files beside a link to its weights."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    for file in checkpoint_dir().iterdir():
        if file.suffix == ".safetensors":
            (path / file.name).hardlink_to(file)
        else:
            shutil.copyfile(file, path / file.name)
    return path


def job_of(checkpoint: Path, tmp_path: Path, modalities: Sequence[str] = ("text", "vision", "audio")) -> Job:
    return make_job(Source.open(checkpoint, modalities=modalities), tmp_path, resolutions=(256,))


@pytest.mark.parametrize("jinja", [None, TRIMMED, CHATML, NO_SYSTEM, METHODS, DATED])
def test_both_runtimes_make_the_prompts_of_transformers(jinja: str | None, nano_copy: Path, tmp_path: Path) -> None:
    if jinja is not None:
        (nano_copy / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    said: list[str] = []
    job = replace(job_of(nano_copy, tmp_path), progress=said.append)
    assert require_equal_prompts(job, {runtime: get_backend(runtime) for runtime in RUNTIMES}) > 12
    is_own = jinja in (None, DATED)
    assert (engine_template(job) == job.tokenizer.template.jinja) == is_own
    assert any(line.startswith("note: LiteRT-LM") for line in said) != is_own


THINKING = TRIMMED.replace("m['content'] | trim", "m['content'].split('</think>')[-1].lstrip('\\n')")
TEXTS = {
    "thoughts": THINKING,
    "the last messages": TRIMMED.replace("in messages", "in messages[-7:]"),
    "the date": TRIMMED.replace("{{ bos_token }}", "{{ bos_token }}{{ 'Today: ' + strftime_now('%d %B %Y') + '\n' }}"),
    "eos": TRIMMED.replace("'<end_of_turn>\n'", "eos_token"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_template_that_is_more_than_turns_is_wrapped_for_the_engine(
    name: str, nano_copy: Path, tmp_path: Path
) -> None:
    """It looks into texts, counts turns, writes the date or another control token: none of it is lost."""
    (nano_copy / "chat_template.jinja").write_text(TEXTS[name], encoding="utf-8")
    said: list[str] = []
    job = replace(job_of(nano_copy, tmp_path, ("text",)), progress=said.append)
    assert (job.tokenizer.turns is None) == (name != "eos")
    require_equal_prompts(job, {runtime: get_backend(runtime) for runtime in RUNTIMES})
    assert engine_template(job) == wrapped(job.tokenizer.template)
    assert any("behind a loop" in line for line in said)


def test_a_text_template_with_media_is_wrapped_too(nano_copy: Path, tmp_path: Path) -> None:
    (nano_copy / "chat_template.jinja").write_text(THINKING, encoding="utf-8")
    job = job_of(nano_copy, tmp_path)
    require_equal_prompts(job, {"litert": get_backend("litert")})
    assert engine_template(job) == wrapped(job.tokenizer.template)


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"additional_special_tokens": ["<think>"]}, "adds the token '<think>'"),
        ({"tokenizer_class": "LlamaTokenizerFast"}, "its normalizer is none"),
    ],
)
def test_a_tokenizer_that_transformers_makes_another_is_refused(
    change: dict[str, Any], match: str, nano_copy: Path, tmp_path: Path
) -> None:
    """No conversation has the token, and few show the rule."""
    edited(nano_copy / "tokenizer_config.json", lambda c: c.update(change))
    with pytest.raises(TokenizerError, match=match):
        require_equal_prompts(job_of(nano_copy, tmp_path, ("text",)), {"executorch": get_backend("executorch")})


def test_the_finished_bundles_prompts_are_a_check_of_its_own(tmp_path: Path) -> None:
    job = job_of(checkpoint_dir(), tmp_path, ("text",))
    spoken = Spoken.of(job)
    made = get_backend("executorch").prompts(job, list(spoken.conversations.values()))
    assert spoken.check("executorch", made).passed
    first = made[0]
    assert first is not None
    failed = spoken.check("executorch", [RuntimePrompt(first.text, (*first.ids, 7)), *made[1:]])
    assert not failed.passed and failed.value == 1 and "becomes other tokens" in failed.note


@pytest.mark.parametrize("towers", [(), ("vision",)])
def test_a_processor_that_cannot_be_loaded_is_told_or_refused(
    towers: tuple[str, ...], nano_copy: Path, tmp_path: Path
) -> None:
    """A text model does without it; pictures do not."""
    said: list[str] = []
    job = replace(job_of(nano_copy, tmp_path, ("text", *towers)), progress=said.append)
    path = nano_copy / "processor_config.json"
    path.write_text(json.dumps({"processor_class": "Gemma3nProcessor"}), encoding="utf-8")
    if towers:
        with pytest.raises(TokenizerError, match="transformers cannot load"):
            require_equal_prompts(job, {"executorch": get_backend("executorch")})
        return
    require_equal_prompts(job, {"executorch": get_backend("executorch")})
    assert any("its tokenizer alone was compared" in line for line in said)


class OtherPrompts(FakeBackend):
    """A runtime whose prompts are changed."""

    def __init__(self, change: Callable[[RuntimePrompt], RuntimePrompt | None]) -> None:
        super().__init__("litert")
        self._change = change

    def prompts(self, job: Job, conversations: Sequence[Conversation]) -> Prompts:
        return [None if prompt is None else self._change(prompt) for prompt in super().prompts(job, conversations)]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: RuntimePrompt(p.text + " ", p.ids), "instead of"),
        (lambda p: RuntimePrompt(p.text, (*p.ids[:-1], 7)), "becomes other tokens"),
        (lambda p: None, "litert refuses it"),
    ],
)
def test_a_difference_is_an_error(
    change: Callable[[RuntimePrompt], RuntimePrompt | None], match: str, tmp_path: Path
) -> None:
    job = job_of(checkpoint_dir(), tmp_path, ("text",))
    with pytest.raises(TokenizerError, match=match):
        require_equal_prompts(job, {"litert": OtherPrompts(change)})


def test_a_template_that_the_engine_cannot_render_is_refused(nano_copy: Path, tmp_path: Path) -> None:
    jinja = TRIMMED.replace(
        "{{ m['content'] | trim }}", "{{ m['content'].title() if 'two' in m['content'] else m['content'] }}"
    )
    (nano_copy / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    with pytest.raises(TokenizerError, match="LiteRT-LM renders the chat template otherwise"):
        require_equal_prompts(job_of(nano_copy, tmp_path, ("text",)), {"litert": get_backend("litert")})


def test_a_tokenizer_whose_rules_transformers_does_not_read_is_refused(nano_copy: Path, tmp_path: Path) -> None:
    """``GemmaTokenizer`` takes the vocabulary and the merges of the file, and its own rules for the rest."""
    path = nano_copy / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    spec["normalizer"] = {"type": "Sequence", "normalizers": [spec["normalizer"], {"type": "Lowercase"}]}
    path.write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(TokenizerError):
        require_equal_prompts(job_of(nano_copy, tmp_path, ("text",)), {"executorch": get_backend("executorch")})
