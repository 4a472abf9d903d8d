"""The chat template of a ``.litertlm``: the checkpoint's own, and turns for conversations that it refuses.

People send what no template of a checkpoint was written for: two user's turns in a row, an answer first, the role
``developer``, a system's text in the middle, tools. Gemma's template raises an exception there, as it does in
``transformers``, and the engine would end with an error of its own. So such a conversation is written turn by turn,
with the texts that the checkpoint's template puts around turns:

- a user's turn or an answer is written as it stands, whatever came before it;
- ``developer`` is another name for ``system``. A text of the system before all turns is written as the checkpoint's
  template writes it; a later one is a turn of its own, the user's where the system has none;
- tools are declared in a turn of their own before all others, calls and results stand in fences, as in the template
  that LiteRT-LM carries for Gemma 3n (``google-gemma-3n-e2b-it-tools.jinja`` among its test data).

The engine renders a conversation again with each turn and takes what is new at its end, so what is written for some
turns must begin what is written for them and one more.
"""

from __future__ import annotations

from typing import NamedTuple

from g3n_compiler.checkpoint.turns import Turns

GEMMA_USER, GEMMA_CLOSE = "<start_of_turn>user\n", "<end_of_turn>\n"
NO_TOOLS = (
    "this file takes no tools: LiteRT-LM reads calls only in files of a type that cannot have this model's sound and "
    "pictures. Compile the checkpoint with --modalities text --tools"
)
NO_TOOLS_OTHER = "this file takes no tools: its chat template is not Gemma's"


class Parts(NamedTuple):
    """What stands around a turn."""

    user: str
    model: str
    close: str
    system: tuple[str, str] | None
    """Before and after a text of the system; ``None`` if there is no place for one."""
    system_in_user: bool
    """Whether a system's text opens the first user's turn."""


def parts_of(turns: Turns | None) -> Parts | None:
    """The texts around single turns, if ``turns`` are made of such."""
    if turns is None or not turns.next.endswith(turns.first) or not turns.first:
        return None
    close = turns.next.removesuffix(turns.first)
    model = turns.generation.removeprefix(close)
    if not close or turns.generation != turns.answer or turns.generation != close + model or not model:
        return None
    system, inside = turns.system, False
    if system is not None:
        inside = system[0] == turns.first
        if not inside and not system[1].endswith(turns.first):
            return None
    return Parts(turns.first, model, close, system, inside)


def takes_tools(turns: Turns | None) -> bool:
    """Whether tools can be written as LiteRT-LM's type ``gemma3n`` reads them."""
    parts = parts_of(turns)
    return parts is not None and (parts.user, parts.close) == (GEMMA_USER, GEMMA_CLOSE)


def conversation_template(template: str, turns: Turns | None, tools: bool) -> str:
    """``template`` for the conversations that it was written for, and turns for all others.

    Args:
        template: in the engine's Jinja; writes bos.
        turns: what it puts between texts; ``None`` if it is more than that.
        tools: whether the file's type reads calls, which :func:`takes_tools` must allow.
    """
    refused = f"{{{{ raise_exception({(NO_TOOLS if takes_tools(turns) else NO_TOOLS_OTHER)!r}) }}}}"
    parts = parts_of(turns)
    if turns is None or parts is None:
        return f"{{% if tools %}}{refused}{{% endif %}}{template}"
    other = _turn_by_turn(turns, parts, tools)
    refuse = "" if tools else f"{{% if tools %}}{refused}{{% endif %}}"
    return (
        f"{refuse}{{% set g3n = namespace(own=not tools, user=true, text='', calls=false) %}}"
        "{% for turn in messages %}{% if not (loop.first and turn['role'] == 'system') %}"
        "{% if turn['role'] != ('user' if g3n.user else 'assistant') or turn['tool_calls'] %}"
        "{% set g3n.own = false %}{% endif %}{% set g3n.user = not g3n.user %}"
        "{% endif %}{% endfor %}"
        f"{{% if g3n.own %}}{template}{{% else %}}{other}{{% endif %}}"
    )


def _turn_by_turn(turns: Turns, parts: Parts, tools: bool) -> str:
    """Each turn as it stands, whatever the one before it."""

    def content(strip: bool) -> str:
        text = "part['text'] | trim" if strip else "part['text']"
        whole = "turn['content'] | trim" if strip else "turn['content']"
        return (
            f"{{% if turn['content'] is string %}}{{{{ {whole} }}}}{{% elif turn['content'] %}}"
            "{% for part in turn['content'] %}{% if part['type'] == 'text' %}"
            f"{{{{ {text} }}}}{{% else %}}{{{{ '<' + part['type'] + '_soft_token>' }}}}{{% endif %}}{{% endfor %}}"
            "{% endif %}"
        )

    def write(text: str) -> str:
        return f"{{{{ {text!r} }}}}"

    user, close = write(parts.user), write(parts.close)
    calls = _calls() if tools else "{% if turn['tool_calls'] %}{{ raise_exception('tools are needed') }}{% endif %}"
    waiting = f"{{% if g3n.text %}}{user}{{{{ g3n.text }}}}{close}{{% set g3n.text = '' %}}{{% endif %}}"
    if parts.system is None:
        told = "{{ raise_exception('the chat template takes no system text') }}"
    elif parts.system_in_user:
        # Held back until the first user's turn, as the checkpoint's template does.
        gathered = f"{{% set g3n.text %}}{content(turns.strip_system)}{{% endset %}}"
        told = f"{{% if loop.first %}}{gathered}{{% else %}}{user}{content(turns.strip_system)}{close}{{% endif %}}"
    else:
        after = parts.system[1].removesuffix(parts.user)
        told = f"{write(parts.system[0])}{content(turns.strip_system)}{write(after)}"
    joined = write(parts.system[1]) if parts.system is not None and parts.system_in_user else ""
    opened = f"{user}{{% if g3n.text %}}{{{{ g3n.text }}}}{joined}{{% set g3n.text = '' %}}{{% endif %}}"
    return (
        "{{ bos_token }}"
        + (_declarations() if tools else "")
        + "{% for turn in messages %}"
        + f"{{% if turn['role'] == 'system' or turn['role'] == 'developer' %}}{told}"
        + f"{{% elif turn['role'] == 'user' %}}{opened}{content(turns.strip_user)}{close}"
        + f"{{% elif turn['role'] == 'assistant' or turn['role'] == 'model' %}}{waiting}{write(parts.model)}"
        + f"{content(turns.strip_answer)}{calls}{close}"
        + (f"{{% elif turn['role'] == 'tool' %}}{waiting}{user}{_results()}{close}" if tools else "")
        + "{% else %}{{ raise_exception('a turn has an unknown role: ' + turn['role']) }}{% endif %}{% endfor %}"
        + f"{{% if add_generation_prompt %}}{waiting}{write(parts.model)}{{% endif %}}"
    )


def _declarations() -> str:
    """The tools, which the engine gives as declarations of Python functions."""
    return (
        "{% if tools %}{{ '<start_of_turn>system\\n' }}{% for tool in tools %}{{ tool | trim }}{{ '\\n\\n' }}"
        "{% endfor %}{{ '<end_of_turn>\\n' }}{% endif %}"
    )


def _calls() -> str:
    """What the model called, whose arguments the engine gives as Python's literals."""
    return (
        "{% if turn['tool_calls'] %}{{ '```tool_code\\n' }}{% for call in turn['tool_calls'] %}"
        "{{ call['function']['name'] + '(' }}{% for key in call['function']['arguments'] %}"
        "{{ key + '=' + call['function']['arguments'][key] }}{% if not loop.last %}{{ ', ' }}{% endif %}"
        "{% endfor %}{{ ')\\n' }}{% endfor %}{{ '```' }}{% endif %}"
    )


def _results() -> str:
    """What calls gave, a line each."""
    return (
        "{{ '```tool_outputs\\n' }}{% if turn['content'] is string %}{{ turn['content'] + '\\n' }}{% else %}"
        "{% for part in turn['content'] %}{{ part['text'] + '\\n' }}{% endfor %}{% endif %}{{ '```' }}"
    )
