"""Tools in the stock engine, as an application calls it: nano's bundle of text calls them and uses what they give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litert_lm
import pytest

from g3n_compiler.nano.tasks import first_of_each, read_examples
from g3n_runtime.bundle import open_bundle
from tests.litert.tools import call_of, declarations, result_of

EXAMPLES = [e for e in first_of_each(read_examples(), 8) if e.task == "tool-result"]
GREEDY = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=0.0)


class Recorded(litert_lm.Tool):  # type: ignore[misc]
    """A tool that gives ``result``, and what it was called with."""

    def __init__(self, schema: dict[str, Any], result: dict[str, Any]) -> None:
        self._schema, self._result = schema, result
        self.calls: list[dict[str, Any]] = []

    def get_tool_description(self) -> dict[str, Any]:
        return self._schema

    def execute(self, param: Any) -> dict[str, Any]:
        self.calls.append({"name": self._schema["function"]["name"], "arguments": dict(param)})
        return self._result


def test_nano_calls_tools_and_uses_their_results(nano_fp32: Path) -> None:
    right = 0
    with litert_lm.Engine(str(open_bundle(nano_fp32).file("litertlm")), cache_dir=":nocache") as engine:
        for example in EXAMPLES:
            tools = [Recorded(schema, result_of(example.turns[1][0])) for schema in declarations(example)]
            with engine.create_conversation(tools=tools, sampler_config=GREEDY) as conversation:
                answer = conversation.send_message(example.turns[0][0]).to_json()["content"][0]["text"]
            called = [call for tool in tools for call in tool.calls]
            right += called == [call_of(example.turns[0][1])] and answer == example.turns[1][1]
    assert right >= len(EXAMPLES) - 1, f"{right} of {len(EXAMPLES)}"


def test_calls_are_told_to_whoever_runs_them(nano_fp32: Path) -> None:
    example = EXAMPLES[0]
    with litert_lm.Engine(str(open_bundle(nano_fp32).file("litertlm")), cache_dir=":nocache") as engine:
        tools = [Recorded(schema, {}) for schema in declarations(example)]
        with engine.create_conversation(
            tools=tools, sampler_config=GREEDY, automatic_tool_calling=False
        ) as conversation:
            message = conversation.send_message(example.turns[0][0]).to_json()
    assert [call["function"] for call in message["tool_calls"]] == [call_of(example.turns[0][1])]
    assert not any(tool.calls for tool in tools)


def test_a_bundle_with_sound_and_pictures_refuses_tools(nano_int4: Path, capfd: pytest.CaptureFixture[str]) -> None:
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    with litert_lm.Engine(str(open_bundle(nano_int4).file("litertlm")), cache_dir=":nocache") as engine:
        tools = [Recorded(schema, {}) for schema in declarations(EXAMPLES[0])]
        with engine.create_conversation(tools=tools) as conversation, pytest.raises(RuntimeError):
            conversation.send_message(EXAMPLES[0].turns[0][0])
    assert "--modalities text --tools" in capfd.readouterr().err
