"""The texts on which a compile measures what rounding costs."""

from __future__ import annotations

from g3n_compiler.checkpoint.calibrated import read_calibration
from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.errors import TargetError
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.request.options import CompileOptions
from g3n_compiler.source import Source
from g3n_compiler.verify.held import HeldTexts, own_held_texts, read_held_texts


def choose_held_texts(
    options: CompileOptions, recipe: Recipe, source: Source, tokenizer: TextTokenizer, inputs: Inputs
) -> HeldTexts | None:
    if recipe.name == "fp32":
        if options.held_texts is not None or options.max_loss is not None:
            raise TargetError("fp32 rounds nothing, so that nothing is lost: leave --eval and --max-loss out")
        return None
    calibration = read_calibration(source.directory)
    if options.max_loss is not None and calibration is not None:
        if options.held_texts is not None:
            raise TargetError(
                f"{source.directory} is already rounded, and what that cost is only known on the texts that it was "
                "calibrated with: leave --eval out, or --max-loss"
            )
        if calibration.loss is None:
            raise TargetError(
                f"{source.directory} was calibrated by an older g3n, which did not measure what that cost: calibrate "
                "again, or leave --max-loss out"
            )
    if options.held_texts is None:
        return own_held_texts(source, tokenizer)
    inputs.note([options.held_texts])
    return read_held_texts(options.held_texts, tokenizer, source.text.max_context)
