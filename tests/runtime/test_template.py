"""Chat templates: those of real models are taken, those that could run away are refused at once."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g3n_compiler.checkpoint.chat_template import GEMMA
from g3n_compiler.lower.litert.media import AudioMedia, ImageMedia, Media
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.errors import BundleError
from g3n_runtime.template import MAX_OUTPUT, render
from g3n_runtime.template_check import check_template

OWN = (checkpoint_dir() / "chat_template.jinja").read_text(encoding="utf-8")
MEDIA = Media(ImageMedia(256, "<image_soft_token>", "<a>", "<b>"), AudioMedia("<audio_soft_token>", "<c>", "<d>"))
SPACE, TURNS = "{% set ns = namespace(a='x') %}", "{% for m in messages %}"
ENDS = "{% endfor %}"
TWICE = "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}"
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize("template", [OWN, GEMMA, MEDIA.template(OWN)])
def test_gemmas_turns_are_written(template: str) -> None:
    expected = "<bos><start_of_turn>user\ns\n\nhi<end_of_turn>\n<start_of_turn>model\n"
    assert render(template, MESSAGES, BundleError) == expected


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (SPACE + TURNS + "{% set ns.a = ns.a + m.role[0] + m['content'] %}{% endfor %}{{ ns.a }}", "xssuhi"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}" + TURNS + "{{ f(f(m.content)) }}{% endfor %}", "<<s>><<hi>>"),
        (
            TURNS + "{% set t = m.content %}{% if loop.last %}{% set t = t + '.' %}{% endif %}{{ t }}{% endfor %}",
            "shi.",
        ),
        (TURNS + "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m | tojson }}{% endfor %}", "user"),
    ],
)
def test_other_templates_that_end_are_taken(template: str, text: str) -> None:
    assert text in render(template, MESSAGES, BundleError)


@pytest.mark.parametrize(
    "template",
    [
        '{{ "x" * 4000000000 }}',
        "{{ 2 ** 99999 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for a in messages %}" * 5 + "x" + "{% endfor %}" * 5,
        "{% macro g() %}"
        + TURNS * 3
        + "{% endfor %}" * 3
        + "{% endmacro %}"
        + TURNS * 2
        + "{{ g() }}"
        + "{% endfor %}" * 2,
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for a in messages recursive %}{{ loop(a) }}{% endfor %}",
        SPACE + TURNS + "{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
        SPACE + TURNS + "{% set t = ns.a ~ ns.a %}{% set ns.a = t %}{% endfor %}",
        SPACE + TURNS + "{% set ns.a = ns.a | replace('x', 'xx') %}{% endfor %}",
        SPACE + TURNS + "{% set ns.a = [ns.a, ns.a] | string %}{% endfor %}",
        SPACE
        + TURNS
        + "{% set t %}{% for i in 'ab' %}{{ ns.a }}{% endfor %}{% endset %}{% set ns.a = t %}{% endfor %}",
        TWICE + SPACE + TURNS + "{% set ns.a = f(ns.a) %}{% endfor %}",
        TWICE + "{{ " + "f(" * 30 + "'x'" + ")" * 30 + " }}",
        "".join(f"{{% set a{i + 1} = a{i} ~ a{i} %}}" for i in range(40)),
        "{% set a = 'x' %}" + "{% set a = a ~ a %}" * 40,
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ ['x'] | map('center', 9999) }}",
        "{{ 'x'.ljust(9999) }}",
        "{{ messages.__class__ }}",
        "{{ messages | attr('__class__') }}",
        "{{ ''.format.__globals__ }}",
        "{% include 'a' %}",
        "{% import 'a' as b %}",
        "{{ lipsum(n=9) }}",
        "{{ undefined() }}",
        "{{ ",
        "{% generation %}",
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{# " + "x" * (256 << 10) + " #}",
    ],
)
def test_what_could_run_away_is_refused_at_once(template: str) -> None:
    begin = time.process_time()
    with pytest.raises(BundleError, match="the chat template"):
        check_template(template, BundleError)
    assert time.process_time() - begin < 2


def test_a_template_that_fails_or_writes_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    for template in ("{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ messages[0].role % 1 }}", "{{ a.b.c }}"):
        with pytest.raises(BundleError, match="fails on a conversation"):
            render(template, MESSAGES, BundleError)
    with pytest.raises(BundleError, match=f"more than {MAX_OUTPUT}"):
        render("{% for i in range(9999) %}{% for j in range(9999) %}xxxxxxxxx{% endfor %}{% endfor %}", [], BundleError)


PIECES = st.sampled_from(
    [SPACE, TURNS, "{% endfor %}", "{{ m.content }}", "{% set ns.a = ns.a ~ m.role %}", "{% if loop.first %}",
     "{% endif %}", TWICE, "{{ f(", ") }}", "'x'", "{{", "}}", "*", "|replace('a','b')", "{% set b = ns.a %}", "é"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_any_text_is_rendered_or_refused(template: str) -> None:
    try:
        assert len(render(template, MESSAGES, BundleError)) <= MAX_OUTPUT
    except BundleError as error:
        assert "the chat template" in str(error)
