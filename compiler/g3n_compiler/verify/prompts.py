"""Compare the prompts of every runtime with those of ``transformers``: text and token ids, before anything is traced.

A wrong prompt is not an error to any engine: the model only answers worse. So all runtimes must make the same prompts
of a set of conversations as ``apply_chat_template`` and the tokenizer that ``transformers`` loads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.chat_template import PREPROCESSOR_CONFIG, PROCESSOR_CONFIG, find_chat_template
from g3n_compiler.checkpoint.conversations import Conversation, conversations
from g3n_compiler.checkpoint.fields import present
from g3n_compiler.errors import TokenizerError
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.prompts import Prompts, RuntimePrompt
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.verify.checks import Check
from g3n_compiler.verify.tokenizer_rules import require_same_rules
from g3n_runtime.prompt import AROUND
from g3n_runtime.terminal import printable_line


def require_equal_prompts(job: Job, backends: Mapping[Runtime, Backend]) -> int:
    """Raise unless every runtime makes the prompts of ``transformers``; returns how many conversations were compared.

    Raises:
        TokenizerError: a prompt differs, or neither ``transformers`` nor a runtime can make it.
    """
    spoken = Spoken.of(job)
    for runtime, backend in backends.items():
        made = backend.prompts(job, list(spoken.conversations.values()))
        if differences := spoken.differences(runtime, made):
            raise TokenizerError(differences[0])
    return len(spoken.conversations)


@dataclass(frozen=True)
class Spoken:
    """Conversations by name, and the prompts that ``transformers`` makes of them."""

    conversations: Mapping[str, Conversation]
    expected: Prompts

    @classmethod
    def of(cls, job: Job) -> Spoken:
        """All that a checkpoint like the one of ``job`` can have.

        Raises:
            TokenizerError: ``transformers`` writes none of them.
        """
        named = dict(conversations(sorted(job.soft_tokens), job.tokenizer.template.jinja))
        expected = transformers_prompts(job, list(named.values()))
        if all(prompt is None for prompt in expected):
            raise TokenizerError("transformers cannot write any conversation with this chat template")
        return cls(named, expected)

    def differences(self, runtime: Runtime, made: Prompts) -> list[str]:
        """A sentence for each conversation of which ``runtime`` makes another prompt."""
        return [
            _difference(name, runtime, ours, theirs)
            for name, ours, theirs in zip(self.conversations, made, self.expected, strict=True)
            if ours != theirs
        ]

    def check(self, runtime: Runtime, made: Prompts) -> Check:
        """The same for the prompts that an engine makes with the finished bundle."""
        different = self.differences(runtime, made)
        name = f"prompts of {len(made)} conversations, text and token ids"
        note = different[0] if different else ""
        return Check(name, "core", runtime, "transformers", "different", float(len(different)), 0.0, note)


def transformers_prompts(job: Job, wanted: Sequence[Conversation]) -> list[RuntimePrompt | None]:
    """What ``transformers`` makes of conversations with the checkpoint's folder alone.

    A picture or a sound counts as in :class:`~g3n_compiler.lower.prompts.RuntimePrompt`.
    """
    directory, template = job.source.directory, job.tokenizer.template
    with _quiet():
        tokenizer, writer, own = _load(directory, with_media=bool(job.soft_tokens))
        require_same_rules(tokenizer, job.tokenizer.loaded().fast)
    if own is None:
        job.progress("note: transformers cannot load the processor, so its tokenizer alone was compared")
    # Without a processor's settings, those that its class has.
    around = {
        kind: AROUND + "".join(map(job.tokenizer.token, ids)) + AROUND for kind, ids in job.soft_tokens.items()
    } | (own or {})
    found = find_chat_template(directory)
    # The library finds it by itself where all is there that this takes.
    given = {} if own is not None and found.where is not None else {"chat_template": found.text}
    soft = {ids.soft for ids in job.soft_tokens.values()}
    out: list[RuntimePrompt | None] = []
    for messages in wanted:
        try:
            text = writer.apply_chat_template(
                [dict(template.adapted(message)) for message in messages],
                tokenize=False,
                add_generation_prompt=True,
                **given,
            )
        except Exception:  # whatever a template's operations meet
            out.append(None)
            continue
        for kind in job.soft_tokens:
            text = text.replace(template.placeholders[kind], around[kind])
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if ids[:1] != [job.tokenizer.bos_id]:
            raise TokenizerError("transformers puts no bos before the prompt, and every engine does")
        once = tuple(i for at, i in enumerate(ids[1:], 1) if i not in soft or ids[at - 1] != i)
        for kind in job.soft_tokens:
            text = text.replace(around[kind], AROUND + template.placeholders[kind] + AROUND)
        out.append(RuntimePrompt(text.removeprefix(template.bos), once))
    return out


def _load(directory: Path, with_media: bool) -> tuple[Any, Any, dict[str, str] | None]:
    """The tokenizer, what writes prompts, and what the processor puts in place of each placeholder.

    The last is ``None`` where the processor cannot be loaded and a text model does without.
    """
    from transformers import AutoProcessor, AutoTokenizer

    texts: dict[str, str] | None = {}
    try:
        if any(present(directory / name) for name in (PROCESSOR_CONFIG, PREPROCESSOR_CONFIG)):
            try:
                processor = AutoProcessor.from_pretrained(directory, trust_remote_code=False)
            except Exception:
                if with_media:
                    raise
                texts = None
            else:
                around = {"image": processor.full_image_sequence, "audio": processor.full_audio_sequence}
                writer = processor if processor.chat_template is not None else processor.tokenizer
                return processor.tokenizer, writer, around
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # the library raises whatever it meets
        reason = printable_line(str(error))[:300]
        what = "processor" if with_media else "tokenizer"
        raise TokenizerError(
            f"transformers cannot load the {what} of {directory} ({reason}): take its files from the model that this "
            f"one comes from{', or leave the towers out with --modalities text' if with_media else ''}"
        ) from None
    return tokenizer, tokenizer, texts


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the library says while it loads off the terminal: it is compared, not believed."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _difference(name: str, runtime: Runtime, ours: RuntimePrompt | None, theirs: RuntimePrompt | None) -> str:
    begin = f"{runtime} and transformers make different prompts of {name}"
    if ours is None or theirs is None:
        does = "transformers refuses it" if theirs is None else f"{runtime} refuses it"
        return f"{begin}: {does}, the other does not. Make the chat template simpler"
    if ours.text != theirs.text:
        at = next((i for i, (a, b) in enumerate(zip(ours.text, theirs.text, strict=False)) if a != b), -1)
        at = at if at >= 0 else min(len(ours.text), len(theirs.text))
        own, other = (repr(text[max(at - 20, 0) : at + 40]) for text in (ours.text, theirs.text))
        return f"{begin}: {own} instead of {other}. Make the chat template simpler"
    at = next((i for i, (a, b) in enumerate(zip(ours.ids, theirs.ids, strict=False)) if a != b), -1)
    return (
        f"{begin}: the same text becomes other tokens, {list(ours.ids[at : at + 5])} instead of "
        f"{list(theirs.ids[at : at + 5])}. The tokenizer's files do not agree: save it again with transformers"
    )
