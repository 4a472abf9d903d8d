"""Tools: choose one from a list, fill in its arguments, and use its result.

The text form is what LiteRT-LM's data processor for Gemma 3 and 3n writes and parses. It was read in its source
(``runtime/conversation/model_data_processor/gemma3_data_processor_test.cc``: tests ``FormatTools``,
``ToMessageWithToolCall`` and ``RenderTemplateWithToolCalls``) and in the template that the library of version 0.18
contains.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from g3n_compiler.nano.tasks import Example
from nano_training.tasks.words import CITIES, NAMES, Words

Arguments = Mapping[str, str | int]

CALL, OUTPUT, END = "```tool_code\n", "```tool_outputs\n", "\n```"


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; ``parameters`` are name, Python type and description."""

    name: str
    description: str
    parameters: tuple[tuple[str, str, str], ...]


def declare(tool: Tool) -> str:
    """The declaration of ``tool`` as a Python function."""
    listed = "".join(f"    {name}: {kind},\n" for name, kind, _ in tool.parameters)
    described = "".join(f"    {name}: {text}\n" for name, _, text in tool.parameters)
    return f'def {tool.name}(\n{listed}) -> dict:\n  """{tool.description}\n\n  Args:\n{described}  """\n'


def call(tool: Tool, arguments: Arguments) -> str:
    """What the model says to call ``tool``."""
    filled = ", ".join(f"{key}={json.dumps(value)}" for key, value in arguments.items())
    return f"{CALL}{tool.name}({filled}){END}"


def output(result: Arguments) -> str:
    """The user turn that brings the result back."""
    return f"{OUTPUT}{json.dumps(result)}{END}"


_WEATHER = Tool("get_weather", "Gets the weather.", (("place", "str", "A city."),))
_AGE = Tool("get_age", "Gets the age of a person.", (("name", "str", "A name."),))
_TIMER = Tool("set_timer", "Sets a timer.", (("minutes", "int", "How long."),))
_PRICE = Tool("get_price", "Gets a price.", (("thing", "str", "What to buy."),))
_SEND = Tool("send_word", "Sends a word.", (("name", "str", "To whom."), ("word", "str", "What to send.")))
_LIGHT = Tool("set_light", "Sets the light.", (("level", "int", "How bright."),))
TOOLS = (_WEATHER, _AGE, _TIMER, _PRICE, _SEND, _LIGHT)

_WEATHERS = ("cold", "warm", "hot", "dry", "wet", "fair", "dark", "clear")


def _spelled(words: Words, rng: Random, names: tuple[str, ...]) -> tuple[str, str]:
    """A word, and how a question says it: open words stand in quotation marks."""
    if rng.random() < 0.5:
        word = words.some(rng, 1)[0]
        return word, f'"{word}"'
    name = rng.choice(names)
    return name, name


def _request(tool: Tool, words: Words, rng: Random) -> tuple[str, Arguments, Arguments, str]:
    """A question, the arguments that it needs, a result, and the answer that the result allows."""
    number = words.number(rng)
    if tool is _WEATHER:
        place, said = _spelled(words, rng, CITIES)
        sky = rng.choice(_WEATHERS)
        return (
            f"How is the weather in {said}?",
            {"place": place},
            {"weather": sky, "degrees": number},
            f"It is {sky}, with {number} degrees.",
        )
    if tool is _AGE:
        name, said = _spelled(words, rng, NAMES)
        return f"How old is {said}?", {"name": name}, {"age": number}, f"The age is {number}."
    if tool is _TIMER:
        return f"Wake me in {number} minutes.", {"minutes": number}, {"done": 1}, "It is done."
    if tool is _PRICE:
        thing = words.some(rng, 1)[0]
        return f'How much is "{thing}"?', {"thing": thing}, {"price": number}, f"The price is {number}."
    if tool is _SEND:
        (name, said), word = _spelled(words, rng, NAMES), words.some(rng, 1)[0]
        return f'Send {said} the word "{word}".', {"name": name, "word": word}, {"done": 1}, "It is done."
    return f"Make the light {number}.", {"level": number}, {"done": 1}, "It is done."


def tool_call(words: Words, rng: Random) -> Example:
    """The right call, with one to three tools to choose from."""
    offered = rng.sample(TOOLS, rng.choice((1, 2, 2, 3)))
    tool = rng.choice(offered)
    question, arguments, _, _ = _request(tool, words, rng)
    return Example("tool-call", ((question, call(tool, arguments)),), tools=tuple(map(declare, offered)))


def tool_result(words: Words, rng: Random) -> Example:
    """The answer after the result of a call."""
    offered = rng.sample(TOOLS, rng.choice((1, 2)))
    tool = rng.choice(offered)
    question, arguments, result, answer = _request(tool, words, rng)
    turns = ((question, call(tool, arguments)), (output(result), answer))
    return Example("tool-result", turns, tools=tuple(map(declare, offered)))
