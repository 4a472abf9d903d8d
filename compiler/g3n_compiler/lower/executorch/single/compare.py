"""A single program against the bundle's own programs, and under the wheel's ``MultimodalRunner``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from g3n_compiler.lower.alternates import AlternateInputs, SameNumbers, SameText
from g3n_compiler.lower.executorch.single.forms import FORMS, Form
from g3n_compiler.lower.executorch.single.loop import Part, SingleLoop, as_tensor
from g3n_compiler.lower.executorch.towers import open_audio, open_vision
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.subgraphs import Subgraph
from g3n_runtime.conversation import Prompt
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.executorch.tokenizer import PieceDecoder, RunnerTokenizer, Vocabulary
from g3n_runtime.prompt import AROUND

Spoken = list[str | np.ndarray]
"""A prompt without its bos: texts, pictures and sounds."""


def compare_single(job: Job, inputs: AlternateInputs) -> Iterator[SameNumbers | SameText]:
    """Every comparison of the single programs among the files of ``job``."""
    forms = [form for form in FORMS if ROLES[form] in job.files]
    if not forms:
        return
    own = _Own.of(job, inputs)
    for form in forms:
        yield from _numbers(job, form, own, inputs)
    if "stock" in forms:
        yield from _texts(job, inputs)


@dataclass(frozen=True)
class _Own:
    """What the bundle's own programs give."""

    rows: np.ndarray
    ple: np.ndarray
    """Of id 0."""
    logits: np.ndarray
    seen: np.ndarray | None
    heard: np.ndarray | None

    @classmethod
    def of(cls, job: Job, inputs: AlternateInputs) -> _Own:
        files = job.files
        model = ExecuTorchModel(ExecuTorchParts(files[ROLES["model"]], files[ROLES["tables"]]), "text_decoder")
        ids = _looked_up(inputs)
        rows = np.concatenate((model.embeddings(ids), model.ple(ids)), -1)
        logits, ple = model.prefilled_logits(inputs.ids, inputs.prompt), model.ple([0])
        del model  # before a tower is opened
        seen = heard = None
        if inputs.image is not None and (vision := open_vision(files)) is not None:
            seen = vision.embed(inputs.image.astype(np.float32) / 255)
            del vision  # before the next is opened
        if inputs.sound is not None and (audio := open_audio(files)) is not None:
            heard = np.concatenate((audio.clip(inputs.sound), audio.end()))
        return cls(rows, ple, logits, seen, heard)


def _looked_up(inputs: AlternateInputs) -> list[int]:
    return [0, *inputs.ids]


def _numbers(job: Job, form: Form, own: _Own, inputs: AlternateInputs) -> Iterator[SameNumbers]:
    name = f"--single-pte {form}"
    loop = open_single(job, form)
    ids = _looked_up(inputs)
    got = np.concatenate([loop.rows(ids[at : at + loop.chunk]) for at in range(0, len(ids), loop.chunk)])
    yield SameNumbers(f"{name}: token_embedding, {len(ids)} rows", "token_embedding", got, own.rows)
    logits = loop.prefilled_logits(inputs.ids, inputs.prompt)
    yield SameNumbers(f"{name}: text_decoder, {len(inputs.ids)} tokens", "core", logits, own.logits, rounds=True)
    if "forward" in loop.methods:
        first = loop.forward(inputs.ids[: inputs.prompt], 0)
        yield SameNumbers(f"{name}: forward, {inputs.prompt} tokens", "core", first[None], own.logits[:1], rounds=True)
    towers: list[tuple[Subgraph, np.ndarray | None, np.ndarray | None]] = [
        ("vision_encoder", inputs.image, own.seen),
        ("audio_encoder", inputs.sound, own.heard),
    ]
    for subgraph, given, soft in towers:
        if given is not None and soft is not None:
            want = np.concatenate((soft, own.ple.repeat(len(soft), 0)), -1) if form == "stock" else soft
            yield SameNumbers(f"{name}: {subgraph}, {len(want)} rows", subgraph, loop.encode(given), want)


def _texts(job: Job, inputs: AlternateInputs) -> Iterator[SameText]:
    """What the stock runner says, and our loop with the same file: about a text, a picture and a sound."""
    asked = {"a text": turn(job, inputs.question)}
    if inputs.image is not None:
        asked["a picture"] = turn(job, inputs.question, inputs.image)
    if inputs.sound is not None:
        asked["a sound"] = turn(job, inputs.question, inputs.sound)
    said = run_stock(job, list(asked.values()), inputs.max_new_tokens)
    loop, words = open_single(job, "stock"), Vocabulary(job.files[ROLES["tokenizer"]])
    for (what, prompt), text in zip(asked.items(), said, strict=True):
        want = words.decode(loop.answer(as_parts(prompt, words, job.tokenizer.bos_id), inputs.max_new_tokens))
        yield SameText(f"--single-pte stock: MultimodalRunner after {what}", text, want)


def open_single(job: Job, form: Form) -> SingleLoop:
    """Our loop over the single program of ``form``."""
    return SingleLoop(form, job.files[ROLES[form]])


def turn(job: Job, question: str, medium: np.ndarray | None = None) -> Spoken:
    """A user's turn, in which ``medium`` comes before ``question`` as the processor brackets it.

    The text of its begin token is the caller's to write; the row of its end comes from the encoder.
    """
    text = "".join(job.tokenizer.template.prompt(None, (), Prompt[str](question)))
    if medium is None:
        return [text]
    before, asked, after = text.partition(question)
    begin = job.tokenizer.token(job.soft_tokens["image" if medium.ndim == 3 else "audio"].begin)
    return [f"{before}{AROUND}{begin}", medium, f"{AROUND}{asked}{after}"]


def as_parts(prompt: Spoken, words: Vocabulary, bos: int) -> list[Part]:
    """A prompt as :class:`SingleLoop` reads it, the bos before it."""
    parts: list[Part] = [words.encode(p) if isinstance(p, str) else p for p in prompt]
    first = parts[0]
    return [[bos], *parts] if isinstance(first, np.ndarray) else [[bos, *first], *parts[1:]]


def run_stock(job: Job, prompts: Sequence[Spoken], max_new_tokens: int) -> list[str]:
    """What the wheel's unmodified ``MultimodalRunner`` says to each prompt, at temperature 0."""
    import executorch.kernels.quantized  # noqa: F401  (registers the look-ups in quantised tables)
    from executorch.extension.llm.runner import (
        GenerationConfig,
        MultimodalRunner,
        make_audio_input,
        make_image_input,
        make_text_input,
    )

    def given(piece: str | np.ndarray) -> object:
        if isinstance(piece, str):
            return make_text_input(piece)
        if piece.ndim == 3:
            return make_image_input(as_tensor(piece))
        return make_audio_input(torch.from_numpy(np.ascontiguousarray(piece))[None, None])

    files, out = job.files, list[str]()
    tokenizer = RunnerTokenizer(files[ROLES["tokenizer"]])
    stops = {tokenizer.piece(i) for i in job.tokenizer.stop_ids}
    # `warming` keeps the runner from printing the text.
    config = GenerationConfig(echo=False, warming=True, max_new_tokens=max_new_tokens, temperature=0.0, num_bos=1)
    with tokenizer.for_runner() as path:
        runner = MultimodalRunner(str(files[ROLES["stock"]]), str(path))
    for prompt in prompts:
        runner.reset()
        pieces: list[str] = []
        runner.generate([given(piece) for piece in prompt], config, pieces.append)
        text = PieceDecoder()
        end = next((i for i, piece in enumerate(pieces) if piece in stops), len(pieces))
        out.append("".join(text.feed(piece) for piece in pieces[:end]) + text.end())
    return out
