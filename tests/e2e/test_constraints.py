"""Answers under a constraint, which the stock engine's library makes of a JSON schema or a regular expression."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litert_lm
import pytest

from g3n_runtime.bundle import open_bundle

GREEDY = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=0.0)
GUIDED = litert_lm.ConstrainedDecodingConfig(provider=litert_lm.LiteRtLmConstraintProviderType.LL_GUIDANCE)
ASKED = "Write as JSON: a person named Paul is 31 and lives in Rome."
REVERSE = "Reverse: stone river house"
JSON, REGEX = litert_lm.ResponseFormat.Type.JSON_OBJECT, litert_lm.ResponseFormat.Type.REGEX


@pytest.fixture(scope="module")
def engine(nano_int4: Path) -> Iterator[Any]:
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.FATAL)
    with litert_lm.Engine(str(open_bundle(nano_int4).file("litertlm")), cache_dir=":nocache") as engine:
        yield engine


def answer(engine: Any, prompt: str, kind: Any, pattern: str) -> str:
    with engine.create_conversation(
        sampler_config=GREEDY, max_output_tokens=80, constrained_decoding_config=GUIDED
    ) as conversation:
        wanted = litert_lm.ResponseFormat(type=kind, schema_or_pattern=pattern)
        return str(conversation.send_message(prompt, response_format=wanted).to_json()["content"][0]["text"])


def schema_of(*names: str) -> str:
    kinds = {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}}
    fields = {name: kinds[name] for name in names}
    closed = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return json.dumps(closed)


def test_a_schema_that_suits_the_answer_leaves_it_as_it_is(engine: Any) -> None:
    said = answer(engine, ASKED, JSON, schema_of("name", "age", "city"))
    assert json.loads(said) == {"name": "Paul", "age": 31, "city": "Rome"}


def test_a_schema_is_obeyed(engine: Any) -> None:
    """Of itself nano begins with the name and writes three fields."""
    said = answer(engine, ASKED, JSON, schema_of("city", "age"))
    assert list(json.loads(said)) == ["city", "age"]


def test_an_expression_may_have_spaces(engine: Any) -> None:
    assert answer(engine, REVERSE, REGEX, "No (green fish|green ships) at all") == "No green fish at all"


def test_an_answer_ends_where_the_model_ends_it(engine: Any) -> None:
    """The expression would allow any number of letters more."""
    assert answer(engine, REVERSE, REGEX, "Reversed: [a-z]+ [a-z]+ [a-z]+") == "Reversed: house river stone"


def test_a_letter_in_bytes_is_refused_by_the_engine(engine: Any) -> None:
    """Once the engine takes it, ``docs/upstream/litert-lm-constraints.md`` and ``docs/apps`` are to be changed."""
    with pytest.raises(RuntimeError):
        answer(engine, REVERSE, REGEX, "größe")
