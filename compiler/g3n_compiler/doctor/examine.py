"""Run every check of a compile's front half by itself, so that one refusal does not hide the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from g3n_compiler.checkpoint.calibrated import read_calibration
from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.hub import require_folder
from g3n_compiler.checkpoint.reader import CONFIG, GENERATION, Checkpoint
from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer
from g3n_compiler.checkpoint.tokenizer_json import load_fast_tokenizer
from g3n_compiler.doctor import files, model, text
from g3n_compiler.doctor.findings import Check, Findings
from g3n_compiler.doctor.values import measure
from g3n_compiler.errors import G3nError, NotFinite, TokenizerError
from g3n_compiler.models.gemma3n.folder_check import check_folder
from g3n_compiler.models.gemma3n.image_processor import load_resample, load_side
from g3n_compiler.models.gemma3n.text_config import TextConfig, gemma3n_config
from g3n_compiler.models.gemma3n.vision_layout import read_layout
from g3n_compiler.models.registry import family_for
from g3n_compiler.models.shape import TextShape
from g3n_compiler.request.image_sizes import processor_side
from g3n_compiler.source import Source
from g3n_compiler.tensor_account import account

T = TypeVar("T")
Say = Callable[[str], None]


def examine(directory: Path, weights: bool, say: Say) -> Findings:
    """Everything that can be learnt from the folder.

    Args:
        weights: read every tensor too, for odd values.

    Raises:
        CheckpointError: there is no such folder.
    """
    require_folder(directory)
    findings = Findings(str(directory))
    say("reading headers and small files")
    source, shape = _check_model(findings, directory)
    try:
        tokenizer = _check_text(findings, directory, source, shape)
        _check_images(findings, directory, source)
        model.tell_model(findings, directory, source, shape)
        text.tell_text(findings, directory, tokenizer)
        files.tell_files(findings, directory)
        if weights and source is not None:
            findings.values = measure(source.checkpoint, say)
            if bad := [v for v in findings.values if not v.finite]:
                message = f"{bad[0].name} holds a NaN or an infinity, and so do {len(bad) - 1} other tensors"
                findings.checks.append(Check("values", message, NotFinite.__name__, NotFinite.exit_code))
            else:
                findings.checks.append(Check("values"))
    finally:
        if source is not None:
            source.close()
    return findings


def _check_model(findings: Findings, directory: Path) -> tuple[Source | None, TextShape | None]:
    shape = _attempt(findings, "config.json", lambda: _shape(directory))
    opened = _attempt(findings, "weights' headers", lambda: Checkpoint(directory))
    if opened is not None:
        opened.close()
    source = _attempt(findings, "text model", lambda: Source.open(directory))
    if source is None:
        _skip(findings, "the model cannot be opened", "vision tower", "audio tower", "every tensor", "files together")
    else:
        _attempt(findings, "vision tower", lambda: source.vision)
        _attempt(findings, "audio tower", lambda: source.audio)
        _attempt(findings, "every tensor", lambda: account(source, findings.notes.append))
        _attempt(findings, "files together", lambda: check_folder(source, findings.notes.append))
    _attempt(findings, "calibration", lambda: read_calibration(directory))
    return source, shape if source is None else source.whole


def _shape(directory: Path) -> TextShape:
    config = read_json(directory / CONFIG)
    path = directory / GENERATION
    return family_for(config).text_shape(config, read_json(path) if present(path) else None)


def _check_text(
    findings: Findings, directory: Path, source: Source | None, shape: TextShape | None
) -> TextTokenizer | None:
    if shape is None:
        _skip(findings, "config.json is not understood", "tokenizer, template and sampler", "token ids")
        return None
    config, modalities = gemma3n_config(shape), () if source is None else source.modalities
    tokenizer = _attempt(
        findings,
        "tokenizer, template and sampler",
        lambda: load_tokenizer(directory, config, modalities, findings.notes.append),
    )
    if tokenizer is None:
        _skip(findings, "the tokenizer cannot be loaded", "token ids")
    else:
        _attempt(findings, "token ids", lambda: _require_tokens(directory, config))
    return tokenizer


def _require_tokens(directory: Path, config: TextConfig) -> None:
    """Raise :class:`TokenizerError` unless the tokenizer has the ids that the configuration names."""
    path = directory / "tokenizer.json"
    fast = load_fast_tokenizer(path, checked=True)  # by load_tokenizer
    for number in (config.bos_id, *config.eos_ids):
        if fast.id_to_token(number) is None:
            raise TokenizerError(f"{path} has no token {number}, which the model's config.json names")


def _check_images(findings: Findings, directory: Path, source: Source | None) -> None:
    _attempt(findings, "image processor", lambda: (load_resample(directory), load_side(directory)))
    if any(not c.passed for c in findings.checks if c.name in ("vision tower", "image processor")):
        return
    if source is None or source.vision is None:
        return
    own, vision = processor_side(directory), source.vision
    _attempt(findings, "image sizes", lambda: read_layout(vision).check_resolution(own))


def _attempt(findings: Findings, name: str, work: Callable[[], T]) -> T | None:
    """The result of ``work``, or its error among the checks; an error that is already there is not reported twice."""
    try:
        result = work()
    except G3nError as error:
        found = Check(name, str(error), type(error).__name__, error.exit_code)
        if found.error in [check.error for check in findings.checks]:
            found = replace(Check(name), skipped="for the reason above")
        findings.checks.append(found)
        return None
    findings.checks.append(Check(name))
    return result


def _skip(findings: Findings, why: str, *names: str) -> None:
    findings.checks += [Check(name, skipped=why) for name in names]
