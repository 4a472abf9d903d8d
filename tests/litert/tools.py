"""Nano's held-out tool tasks as an application has them: JSON schemas, calls and results as objects."""

from __future__ import annotations

import ast
import json
from typing import Any

from g3n_compiler.nano.tasks import Example
from nano_training.tasks.tools import CALL, END, OUTPUT, TOOLS

TYPES = {"str": "string", "int": "integer"}


def declarations(example: Example) -> list[dict[str, Any]]:
    """The tools of ``example`` as OpenAI's interface has them."""
    by_name = {tool.name: tool for tool in TOOLS}
    found = []
    for text in example.tools:
        tool = by_name[text.removeprefix("def ").partition("(")[0]]
        fields = {name: {"type": TYPES[kind], "description": about} for name, kind, about in tool.parameters}
        parameters = {"type": "object", "properties": fields, "required": list(fields)}
        function = {"name": tool.name, "description": tool.description, "parameters": parameters}
        found.append({"type": "function", "function": function})
    return found


def call_of(answer: str) -> dict[str, Any]:
    """The call that ``answer`` spells."""
    call = ast.parse(answer.removeprefix(CALL).removesuffix(END), mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    return {"name": call.func.id, "arguments": {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}}


def result_of(said: str) -> dict[str, Any]:
    """The result that a user's turn brings."""
    return dict(json.loads(said.removeprefix(OUTPUT).removesuffix(END)))


def messages_of(example: Example) -> list[dict[str, Any]]:
    """The conversation before the last answer."""
    messages: list[dict[str, Any]] = []
    for said, answer in example.turns:
        if said.startswith(OUTPUT):
            content = [{"type": "tool_response", "name": "a_tool", "response": result_of(said)}]
            messages.append({"role": "tool", "content": content})
        else:
            messages.append({"role": "user", "content": said})
        if answer.startswith(CALL):
            call = {"type": "function", "function": call_of(answer)}
            messages.append({"role": "assistant", "tool_calls": [call]})
        else:
            messages.append({"role": "assistant", "content": answer})
    return messages[:-1]
