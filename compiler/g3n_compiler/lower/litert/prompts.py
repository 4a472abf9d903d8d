"""The chat template that LiteRT-LM can render as ``transformers`` does, and the prompts that it makes of it.

The engine's Jinja lacks methods that Python's texts have, writes nothing where a template fails, and hands every
content over as a list of parts. So the checkpoint's own template is tried first, then the same behind a loop that hands
it texts, and last its turns written for the engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from g3n_compiler.checkpoint.conversations import Conversation, conversations
from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.errors import TokenizerError
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert.conversation_template import takes_tools
from g3n_compiler.lower.litert.metadata import llm_metadata
from g3n_compiler.lower.litert.stand_in import CONTEXT, stand_in
from g3n_compiler.lower.litert.towers import media_of
from g3n_compiler.lower.litert.wrapped_template import wrapped
from g3n_compiler.lower.prompts import RuntimePrompt
from g3n_runtime.litert.engine import LiteRtEngine
from g3n_runtime.template_check import check_template


def engine_prompts(job: Job, template: str, wanted: Sequence[Conversation]) -> list[RuntimePrompt | None]:
    """What the stock engine makes of conversations under ``template``."""
    tokenizer = job.tokenizer
    llm = llm_metadata(CONTEXT, tokenizer, template, media_of(job), job.tools)
    with stand_in(tokenizer.sentencepiece, llm) as engine:
        return [rendered(engine, job, messages) for messages in wanted]


def engine_template(job: Job) -> str:
    """The template for the engine's file: the checkpoint's own, or the same turns in the engine's Jinja.

    Raises:
        TokenizerError: the engine makes other prompts of both, or cannot have tools among such turns.
    """
    if job.tools and not takes_tools(job.tokenizer.turns):
        raise TokenizerError(
            "--tools needs Gemma's turns, which LiteRT-LM writes calls of tools in: the chat template has others"
        )
    tokenizer, own = job.tokenizer, job.tokenizer.template
    wanted = [messages for _, messages in conversations(sorted(job.soft_tokens), own.jinja)]
    expected = [_expected(tokenizer, messages) for messages in wanted]
    anew = [] if tokenizer.turns is None else [tokenizer.turns.as_jinja()]
    for candidate in dict.fromkeys([own.jinja, wrapped(own), *anew]):
        try:
            check_template(candidate, TokenizerError)  # as the engine's file is checked when it is opened
        except TokenizerError:
            continue
        made = engine_prompts(job, candidate, wanted)
        if [None if prompt is None else prompt.text for prompt in made] == expected:
            return candidate
    more = "" if tokenizer.no_turns is None else f", and cannot be written more simply: {tokenizer.no_turns}"
    raise TokenizerError(
        f"LiteRT-LM renders the chat template otherwise than transformers does{more}. Its Jinja has few of Python's "
        "methods of texts: use filters instead, or compile with --runtime executorch"
    )


def rendered(engine: LiteRtEngine, job: Job, messages: Conversation) -> RuntimePrompt | None:
    """What an open engine makes of one conversation under the template and the tokenizer of its file."""
    text = engine.render(messages)
    if not text:  # the engine swallows the template's errors
        return None
    out: list[int] = []
    # The blank lines around placeholders are in the text already.
    for piece, kind in job.tokenizer.template.split(text, around=""):
        out += engine.encode(piece)
        if kind is not None:
            out += job.soft_tokens[kind]
    return RuntimePrompt(text, tuple(out))


def _expected(tokenizer: TextTokenizer, messages: Conversation) -> str | None:
    try:
        text = tokenizer.template.render(messages, TokenizerError)
    except TokenizerError:
        return None
    return tokenizer.template.spaced(text.removeprefix(tokenizer.template.bos))
