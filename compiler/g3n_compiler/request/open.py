"""From what was typed to what will be compiled: all that can be checked from headers and small files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from g3n_compiler.bundle.destination import claim
from g3n_compiler.bundle.kinds import BUNDLE
from g3n_compiler.bundle.names import bundle_name, file_stem
from g3n_compiler.checkpoint.calibrated import check_calibration, refuse_later_adapters
from g3n_compiler.checkpoint.hub import name_size, require_folder, resolve_adapter, resolve_checkpoint, stay_offline
from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.lora import CONFIG, TEXT_FILES, WEIGHTS, require_adapter
from g3n_compiler.checkpoint.lora_text import require_same_text
from g3n_compiler.checkpoint.reader import note_texts
from g3n_compiler.checkpoint.tokenizer import load_tokenizer, read_tokenizer
from g3n_compiler.checkpoint.weight_files import require_adapter_named
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.folder_check import check_folder
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.saved import find_recipe, require_weights
from g3n_compiler.request.capabilities import (
    choose_modalities,
    find_accelerator,
    require_lora_rank,
    require_modalities,
    require_single,
    require_sizes,
    require_tools,
    require_turns,
    require_widths,
)
from g3n_compiler.request.held_texts import choose_held_texts
from g3n_compiler.request.image_sizes import choose_image_sizes
from g3n_compiler.request.lengths import choose_context, choose_prefill
from g3n_compiler.request.memory import peak_memory
from g3n_compiler.request.options import CompileOptions
from g3n_compiler.request.request import Request
from g3n_compiler.request.view import choose_view
from g3n_compiler.slice.choose import BUDGET_UNITS, Choice, parse_quantity
from g3n_compiler.source import Source
from g3n_compiler.targets import choose_runtimes, get_target
from g3n_compiler.tensor_account import account
from g3n_compiler.widths.bounds import Bounds


def open_request(
    options: CompileOptions, backend_for: Callable[[Runtime], Backend], progress: Callable[[str], None]
) -> Request:
    """Check all that takes only seconds: first what was typed, then headers and small files on the disk.

    Raises:
        G3nError: what was found, what was expected and what to do.
    """
    target = get_target(options.target)
    target.check(options.soc)
    recipe = find_recipe(options.recipe)
    bounds = _bounds(options)
    bounds.require_used(recipe)
    modalities = choose_modalities(options.modalities)
    size = name_size(options.size, options.checkpoint)
    options.slicing.check()
    backends = {runtime: backend_for(runtime) for runtime in choose_runtimes(target, options.runtime)}
    if options.elastic is not None:
        require_sizes(backends)
    require_widths(target, backends, recipe)
    if options.lora_rank is not None:
        require_lora_rank(options, target, backends)
    if options.single:
        require_single(backends, options.single)
    accelerator = find_accelerator(target, backends, options.require_accelerator)
    progress("reading the checkpoint")

    def remark(found: str) -> None:
        progress(f"note: {found}")

    for named in (options.checkpoint, options.lora):
        if isinstance(named, Path):
            require_folder(named)  # before anything is fetched
    adapter = None if options.lora is None else resolve_adapter(options.lora, progress)
    if adapter is not None:
        require_adapter(adapter)
    folder, inputs = resolve_checkpoint(size, options.checkpoint, progress), Inputs()
    stay_offline()
    note_texts(folder, inputs)
    if adapter is not None:
        inputs.note(adapter / name for name in (CONFIG, WEIGHTS, *TEXT_FILES))
    source = Source.open(folder, modalities=modalities, remark=remark)
    try:
        require_adapter_named(source.directory, adapter)
        source.checkpoint.note(inputs)
        spec = read_tokenizer(source.directory)
        check_folder(source, remark, spec)
        source.family.published.check_size(size, source.whole)
        memory = peak_memory(options.context, options.prefill_lengths, recipe, backends)
        source, choice, sizes = choose_view(source, size, options.slicing, options.elastic, memory, progress)
        check_calibration(source.directory, recipe.name, _changed_by(options, choice), [size.name for size in sizes])
        if options.lora_rank is not None:
            refuse_later_adapters(source.directory)
        if adapter is not None:
            source = source.adapted(adapter, remark)
        accounted = account(source, remark)
        for backend in backends.values():
            require_modalities(backend, source.modalities)
        if options.tools:
            require_tools(backends, source.modalities)
        if sizes:
            source = source.divided(sizes[0].config)
        require_weights(recipe, text_weights(source.text))
        context = choose_context(options.context, source.text)
        prefill_lengths = choose_prefill(options.prefill_lengths, context)
        resolutions = choose_image_sizes(options.resolutions, source)
        tokenizer = load_tokenizer(source.directory, gemma3n_config(source.text), source.modalities, remark, spec)
        require_turns(target, backends, tokenizer)
        if adapter is not None:
            require_same_text(adapter, tokenizer)
        name = bundle_name(size, choice, sizes, target, recipe, options.lora_rank)
        out = Path("exported") / name if options.out is None else options.out
        read = [folder] if adapter is None else [folder, adapter]
        return Request(
            target=target,
            recipe=recipe,
            backends=backends,
            source=source,
            tokenizer=tokenizer,
            account=accounted,
            size=(choice.size if choice is not None else None) or size,
            choice=choice,
            sizes=sizes,
            context=context,
            prefill_lengths=prefill_lengths,
            resolutions=resolutions,
            inputs=inputs,
            out=out,
            destination=claim(out, BUNDLE, read, progress),
            command=options.command,
            accelerator=accelerator,
            held=choose_held_texts(options, recipe, source, tokenizer, inputs),
            bounds=bounds,
            tools=options.tools,
            lora_rank=options.lora_rank or 0,
            single=options.single,
            stem=file_stem(options, size, choice, recipe),
        )
    except BaseException:
        source.close()
        raise


def _changed_by(options: CompileOptions, choice: Choice | None) -> str | None:
    """The option that changes the checkpoint's weights, if any."""
    if options.lora is not None:
        return "--lora"
    return None if choice is None else "a slice"


def _bounds(options: CompileOptions) -> Bounds:
    size = options.max_size
    return Bounds(None if size is None else parse_quantity(size, "--max-size", BUDGET_UNITS), options.max_loss)
