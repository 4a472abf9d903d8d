"""Patterns over names match what PEFT's own matcher matches, and end in time."""

from __future__ import annotations

import re
import time
import warnings

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from peft.utils.other import get_pattern_key

from g3n_compiler.checkpoint.name_pattern import BadPattern, NamePattern, Steps

ATOMS = ["a", "b", "0", r"\.", ".", r"\d", r"\w", r"\D", "[ab]", "[^a]", "[a-c0]", r"[\d.]", "^", "$", "[]a]", r"\W"]
PATTERNS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,2}", "{,2}", "{2,}"])).map(
            lambda parts: f"(?:{parts[0]}){parts[1]}"
        ),
    ),
    max_leaves=6,
)


@given(PATTERNS, st.text("ab0.", max_size=7))
@settings(max_examples=1500, deadline=None, database=None)
def test_matches_are_those_of_peft(pattern: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It gives the name back where no pattern matches.
        expected = get_pattern_key([pattern], name) == pattern and re.match(rf"(.*\.)?({pattern})$", name) is not None
    assert NamePattern(pattern, Steps()).matches(name) == expected


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("q_proj", "model.layers.0.self_attn.q_proj", True),
        ("q_proj", "model.layers.0.self_attn.aq_proj", False),
        ("self_attn.q_proj", "layers.0.self_attn.q_proj", True),
        ("layers.0", "layers.0.q_proj", False),
        ("^layers.0.q_proj", "layers.0.q_proj", True),
        ("^q_proj", "layers.0.q_proj", False),
        (r"layers\.(1|2)\.q_proj", "model.layers.2.q_proj", True),
        ("", "q_proj", False),
    ],
)
def test_known_matches(pattern: str, name: str, matches: bool) -> None:
    assert NamePattern(pattern, Steps()).matches(name) == matches
    assert (get_pattern_key([pattern], name) == pattern) == matches


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "[a",
        "a**",
        "*",
        r"\1(a)",
        "(?=a)",
        "(?i)a",
        "a++",
        "{2}",
        "a{",
        r"\b",
        "a{2,1}",
        "[b-a]",
        "a" * 600,
        "\\",
    ],
)
def test_what_is_not_supported_is_an_error(pattern: str) -> None:
    with pytest.raises(BadPattern):
        NamePattern(pattern, Steps())


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", "((.*)*)*b", "(((a{0,900}){0,900}){0,900})*b", "a?" * 200])
def test_hostile_patterns_end(pattern: str) -> None:
    started = time.monotonic()
    compiled = NamePattern(pattern, Steps())
    try:
        assert not compiled.matches("a" * 500)
    except BadPattern as error:
        assert "too long" in str(error)
    assert time.monotonic() - started < 10


def test_all_patterns_share_what_they_may_cost() -> None:
    steps = Steps(1000)
    patterns = [NamePattern("(.*a)*", steps) for _ in range(100)]
    assert patterns[0].matches("a" * 20)
    with pytest.raises(BadPattern, match="too long"):
        [pattern.matches("a" * 20) for pattern in patterns]


def test_hundreds_of_plain_names_take_no_time() -> None:
    names = [f"model.layers.{n}.self_attn.{part}_proj" for n in range(35) for part in "qkvo"]
    steps = Steps(0)
    patterns = [NamePattern(name, steps) for name in names]
    assert [sum(p.matches(name) for p in patterns) for name in names] == [1] * len(names)
