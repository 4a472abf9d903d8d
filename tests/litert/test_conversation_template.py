"""Conversations that no checkpoint's template was written for, as the stock engine renders them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import litert_lm
import pytest

from g3n_compiler.checkpoint.conversations import model, system, user
from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.checkpoint.turns import Turns
from g3n_compiler.lower.litert.conversation_template import conversation_template, parts_of, takes_tools
from g3n_compiler.lower.litert.media import AudioMedia, Media
from g3n_compiler.lower.litert.metadata import llm_metadata
from g3n_compiler.lower.litert.stand_in import CONTEXT, stand_in
from g3n_compiler.nano.tasks import Example, first_of_each, read_examples
from g3n_runtime.errors import G3nError
from g3n_runtime.litert.engine import LiteRtEngine
from g3n_runtime.template_check import check_template
from nano_training.tasks.tools import OUTPUT, output
from tests.litert.tools import declarations, messages_of, result_of
from tests.prompts import nano_tokenizer

U, M, E = "<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n"
CHATML = Turns(
    "<|im_start|>user\n",
    ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n"),
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    False,
    False,
    False,
    False,
)
developer = {"role": "developer", "content": "Be brief."}
MEDIA = Media(audio=AudioMedia("<audio_soft_token>", "<start_of_audio>", "<end_of_audio>"))


def engine_over(tokenizer: TextTokenizer, media: Media | None, tools: bool = False) -> Any:
    llm = llm_metadata(CONTEXT, tokenizer, tokenizer.template.jinja, media, tools)
    return stand_in(tokenizer.sentencepiece, llm)


@pytest.fixture(scope="module", params=[(None, False), (None, True), (MEDIA, False)], ids=["text", "tools", "media"])
def engine(request: pytest.FixtureRequest) -> Iterator[LiteRtEngine]:
    with engine_over(nano_tokenizer(), *request.param) as engine:
        yield engine


@pytest.fixture(scope="module")
def tools_engine() -> Iterator[LiteRtEngine]:
    with engine_over(nano_tokenizer(), None, tools=True) as engine:
        yield engine


@pytest.mark.parametrize(
    ("conversation", "prompt"),
    [
        ([user("a"), user("b")], f"{U}a{E}{U}b{E}{M}"),
        ([model("a"), user("b")], f"{M}a{E}{U}b{E}{M}"),
        ([model("a"), model("b"), user("c")], f"{M}a{E}{M}b{E}{U}c{E}{M}"),
        ([developer, user("b")], f"{U}Be brief.\n\nb{E}{M}"),
        ([system("s"), user("a"), user("b")], f"{U}s\n\na{E}{U}b{E}{M}"),
        ([system("s"), model("a"), user("b")], f"{U}s{E}{M}a{E}{U}b{E}{M}"),
        ([user("a"), model("b"), system("s"), user("c")], f"{U}a{E}{M}b{E}{U}s{E}{U}c{E}{M}"),
        ([user("a"), developer, user("c")], f"{U}a{E}{U}Be brief.{E}{U}c{E}{M}"),
        ([system("s"), user("a"), model("b"), user("c")], f"{U}s\n\na{E}{M}b{E}{U}c{E}{M}"),  # the template's own
    ],
)
def test_every_order_of_turns_is_written(engine: LiteRtEngine, conversation: list[Any], prompt: str) -> None:
    assert engine.render(conversation) == prompt


@pytest.mark.parametrize("roles", [["robot"], ["user", "assistant", "robot"]])
def test_an_unknown_role_is_refused(engine: LiteRtEngine, roles: list[str]) -> None:
    assert engine.render([{"role": role, "content": "a"} for role in roles]) == ""


def test_turns_of_another_form_are_written_in_it() -> None:
    parts = parts_of(CHATML)
    assert parts is not None and not takes_tools(CHATML)
    own = replace(nano_tokenizer(), turns=CHATML, template=replace(nano_tokenizer().template, jinja="{{ bos_token }}"))
    with engine_over(own, None) as engine:
        s, u, a, e = ("<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n")
        assert engine.render([developer, user("a"), user("b")]) == f"{s}Be brief.{e}{u}a{e}{u}b{e}{a}"


@pytest.mark.parametrize("change", [{"answer": "x"}, {"first": "y"}, {"first": ""}, {"generation": "z"}])
def test_turns_that_do_not_come_apart_leave_the_template_alone(change: dict[str, str]) -> None:
    turns = replace(CHATML, **change)
    assert parts_of(turns) is None
    assert conversation_template("{{ own }}", turns, False).endswith("{% endif %}{{ own }}")


def tool_examples() -> list[Example]:
    return [e for e in first_of_each(read_examples(), 12) if e.task in ("tool-call", "tool-result")]


def test_tools_calls_and_results_are_written_as_nano_was_taught(tools_engine: LiteRtEngine) -> None:
    """But for a result's fields, which the engine sorts by name."""
    for example in tool_examples():
        messages = messages_of(example)
        tools = [Declared(schema) for schema in declarations(example)]
        with tools_engine._engine.create_conversation(messages=messages[:-1], tools=tools) as conversation:
            said = example.turns[-1][0]
            by_name = output(dict(sorted(result_of(said).items()))) if said.startswith(OUTPUT) else said
            want = example.prompt.replace(said, by_name)
            assert conversation.render_message_to_string(messages[-1]) == want, example


def test_a_file_that_cannot_read_calls_refuses_tools() -> None:
    with engine_over(nano_tokenizer(), MEDIA) as engine:
        tools = [Declared(declarations(tool_examples()[0])[0])]
        with engine._engine.create_conversation(tools=tools) as conversation:
            assert conversation.render_message_to_string(user("a")) == ""
            with pytest.raises(RuntimeError):
                conversation.send_message("a")


def test_the_templates_are_ones_that_may_be_rendered() -> None:
    own, turns = nano_tokenizer().template.jinja, nano_tokenizer().turns
    for given, tools in ((turns, True), (turns, False), (CHATML, False), (None, False)):
        check_template(conversation_template(own, given, tools), G3nError)


class Declared(litert_lm.Tool):  # type: ignore[misc]
    """A tool that is never called."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema

    def get_tool_description(self) -> dict[str, Any]:
        return self._schema

    def execute(self, param: Any) -> Any:
        raise AssertionError("the tool was called")
