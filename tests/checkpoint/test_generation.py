"""``generation_config.json`` as trainers leave it, against what ``transformers`` would do with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.checkpoint.generation import GREEDY, Sampler, load_sampler
from g3n_compiler.errors import WrongModel

FORMS: dict[str, dict[str, Any]] = {
    "the published": {"do_sample": True, "top_k": 64, "top_p": 0.95},
    "all set": {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.5},
    "nulls": {"do_sample": True, "temperature": None, "top_k": None, "top_p": None},
    "greedy": {"do_sample": False, "temperature": None},
    "greedy beside a temperature": {"do_sample": False, "temperature": 0.3, "top_k": 3},
    "nothing said": {"eos_token_id": 1},
    "sampling said alone": {"do_sample": True},
    "a null": {"do_sample": None, "top_k": 7},
}


@pytest.mark.parametrize("name", FORMS)
def test_it_is_read_as_generate_reads_it(name: str, tmp_path: Path) -> None:
    from transformers import GenerationConfig

    (tmp_path / "generation_config.json").write_text(json.dumps(FORMS[name]), encoding="utf-8")
    own, default = GenerationConfig.from_pretrained(tmp_path), GenerationConfig._get_default_generation_params()
    theirs = {field: default[field] if getattr(own, field) is None else getattr(own, field) for field in default}
    expected = Sampler(theirs["temperature"], theirs["top_k"], theirs["top_p"]) if theirs["do_sample"] else GREEDY
    assert load_sampler(tmp_path, 4352) == expected


def test_without_the_file_it_is_gemmas_own_and_that_is_said(tmp_path: Path) -> None:
    remarks: list[str] = []
    assert load_sampler(tmp_path, 4352, remarks.append) == Sampler(1.0, 64, 0.95)
    assert "there is no generation_config.json" in remarks[0]


def test_what_no_engine_has_is_named(tmp_path: Path) -> None:
    remarks: list[str] = []
    content = {"do_sample": True, "repetition_penalty": 1.2, "min_p": 0.0, "num_beams": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    load_sampler(tmp_path, 4352, remarks.append)
    assert len(remarks) == 1 and "repetition_penalty" in remarks[0]


@pytest.mark.parametrize("content", [{"temperature": -1}, {"top_p": 2}, {"top_k": "x"}, {"do_sample": 3}])
def test_a_setting_that_cannot_be(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(WrongModel, match=next(iter(content))):
        load_sampler(tmp_path, 4352)


@pytest.mark.parametrize(
    ("content", "expected"),
    [({"do_sample": True, "top_k": 0}, Sampler(1.0, 4352, 1.0)), ({"do_sample": True, "top_p": 0.0}, GREEDY)],
)
def test_zeros_mean_what_they_mean_to_transformers(tmp_path: Path, content: object, expected: Sampler) -> None:
    """To engines a ``top_k`` of 0 is 1 or nothing, and a ``top_p`` of 0 divides by zero."""
    (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    assert load_sampler(tmp_path, 4352) == expected
