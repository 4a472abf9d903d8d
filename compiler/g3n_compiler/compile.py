"""The whole flow, from a checkpoint to a proven bundle: every stage in its order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from g3n_compiler.bundle.destination import claim
from g3n_compiler.bundle.key import bundle_key
from g3n_compiler.bundle.kinds import BUNDLE
from g3n_compiler.bundle.manifest import Provenance, build_manifest, write_manifest
from g3n_compiler.bundle.memory import memory_ledger
from g3n_compiler.bundle.needs import compile_needs, require
from g3n_compiler.bundle.signing import SigningKey, sign_bundle
from g3n_compiler.bundle.staging import staged
from g3n_compiler.checkpoint.calibrated import check_calibration
from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.checkpoint.hub import check_size, name_size, resolve_checkpoint
from g3n_compiler.checkpoint.identity import Sources
from g3n_compiler.checkpoint.image_processor import load_resample, load_side
from g3n_compiler.checkpoint.ledger import account
from g3n_compiler.checkpoint.lora import CONFIG, WEIGHTS, LoraAdapter
from g3n_compiler.checkpoint.multimodal import MODALITIES, Modality
from g3n_compiler.checkpoint.reader import Checkpoint, note_texts
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import ContextError, SliceError, TargetError
from g3n_compiler.heap import trim
from g3n_compiler.lower.backend import Backend, Job, Lowered, LoweredSubgraph, Progress
from g3n_compiler.lower.registry import get_backend
from g3n_compiler.modules.multimodal_embedder import HardRows
from g3n_compiler.modules.vision_layout import read_layout
from g3n_compiler.modules.weights import text_weights
from g3n_compiler.partition import place
from g3n_compiler.quantize.recipe import Recipe, get_recipe
from g3n_compiler.report import REPORT, write_report
from g3n_compiler.slice.choose import Choice, SliceOptions, choose_slice
from g3n_compiler.slice.elastic import Size, choose_sizes
from g3n_compiler.slice.view import SlicedCheckpoint
from g3n_compiler.targets import Runtime, choose_runtimes, get_target
from g3n_compiler.verify.run import verify

DEFAULT_CONTEXT = 4096
DEFAULT_PREFILL = (128, 256)
DEFAULT_RESOLUTIONS = (768, 512, 256)


@dataclass(frozen=True)
class CompileOptions:
    """What the user asked for; ``None`` means the default of the target or of the model."""

    target: str = "host"
    size: str | None = None
    checkpoint: Path | None = None
    runtime: str | None = None
    recipe: str = "int4"
    context: int | None = None
    prefill_lengths: tuple[int, ...] | None = None
    modalities: tuple[str, ...] | None = None
    resolutions: tuple[int, ...] | None = None
    lora: Path | None = None
    soc: str | None = None
    out: Path | None = None
    command: str = ""
    slicing: SliceOptions = field(default_factory=SliceOptions)
    elastic: tuple[str, ...] | None = None
    sign: SigningKey | None = None


def compile_bundle(
    options: CompileOptions, progress: Progress, backend_for: Callable[[Runtime], Backend] = get_backend
) -> Path:
    """Compile, prove and write a bundle; returns its folder.

    Raises:
        G3nError: with what was found, what was expected and what to do; nothing is left that looks like a bundle.
    """
    target = get_target(options.target)
    target.check(options.soc)
    runtimes = choose_runtimes(target, options.runtime)
    recipe = get_recipe(options.recipe)
    modalities = _modalities(options.modalities)

    backends = {runtime: backend_for(runtime) for runtime in runtimes}
    if options.elastic is not None and not all(backend.elastic for backend in backends.values()):
        raise TargetError(
            "ExecuTorch bundles hold one size: a program keeps its caches inside, each entry point its own, so sizes "
            "could not take over from each other. Pass --runtime litert, or leave --elastic out"
        )

    progress("reading the checkpoint")
    size = name_size(options.size, options.checkpoint)
    folder, sources = resolve_checkpoint(size, options.checkpoint), Sources()
    note_texts(folder, sources)
    if options.lora is not None:
        sources.note(options.lora / name for name in (CONFIG, WEIGHTS))
    checkpoint = Checkpoint(folder)
    check_size(size, checkpoint.text)
    choice = choose_slice(size, options.slicing, checkpoint.text, _peak_memory(options, recipe, runtimes))
    sizes = () if options.elastic is None else choose_sizes(options.elastic, checkpoint.text)
    if sizes:
        if choice is not None:
            raise SliceError("--elastic and another option each choose a slice: name all sizes in --elastic")
        choice = _largest(sizes[0], checkpoint.text)
        progress(f"nesting the sizes {', '.join(s.name for s in sizes)}, the first for the stock engine")
    if choice is not None:
        checkpoint.close()
        checkpoint = SlicedCheckpoint(checkpoint.directory, choice.plan)
        size = choice.size or size
        progress(f"slicing: {choice.why}")
    checkpoint.note(sources)
    check_calibration(checkpoint.directory, recipe.name, _changed_by(options, choice))
    adapter = None if options.lora is None else LoraAdapter(options.lora, checkpoint)
    ledger = account(checkpoint, modalities)
    for backend in backends.values():
        _require_modalities(backend, ledger.modalities)
    if sizes:
        checkpoint.text = sizes[0].config
    checkpoint.update = adapter
    checkpoint.hard_rows = HardRows.of(checkpoint, ledger.modalities)
    config = checkpoint.text
    resolutions = _resolutions(options.resolutions, checkpoint, ledger.modalities)
    context = _context(options.context, config)
    prefill_lengths = _prefill_lengths(options.prefill_lengths, context)
    tokenizer = load_tokenizer(checkpoint.directory, config)
    trim()

    label = size if choice is None or choice.size else f"{size}-slice"
    label = f"{label}-elastic" if sizes else label
    name = f"{label}-{target.name}-{recipe.name}"
    out = options.out if options.out is not None else Path("exported") / name
    inputs = [folder] if options.lora is None else [folder, options.lora]
    destination = claim(out, BUNDLE, inputs, progress)
    progress(require(compile_needs(config, recipe, runtimes), destination.path))
    progress("hashing the checkpoint")
    hashes = checkpoint.sha256()
    options_of_bytes = {
        "adapter": None if adapter is None else adapter.sha256,
        "slice": None if choice is None else (choice.plan.kept, choice.plan.ffn_dims),
        "sizes": [(s.name, s.plan.kept, s.plan.ffn_dims) for s in sizes],
        "target": target.name,
        "runtimes": runtimes,
        "recipe": recipe.name,
        "context": context,
        "prefill_lengths": prefill_lengths,
        "modalities": ledger.modalities,
        "image_sizes": resolutions,
        "name": destination.name,
        "command": options.command,
    }
    key = bundle_key(checkpoint.directory, hashes, options_of_bytes)
    with staged(destination, key) as (directory, steps):
        job = Job(
            checkpoint,
            tokenizer,
            recipe,
            context,
            prefill_lengths,
            directory,
            progress,
            ledger.modalities,
            resolutions,
            steps,
            sizes[1:],
        )
        parts = [backend.lower(job) for backend in backends.values()]
        lowered = _join(parts)
        placed = place(lowered.subgraphs, target)
        parity = verify(job, backends)
        parity.require()
        progress("writing the manifest and the report")
        origin = Provenance(
            size,
            ledger.modalities,
            hashes,
            None if adapter is None else adapter.sha256,
            ledger,
            options.command,
            None if choice is None else choice.why,
            sizes[0].name if sizes else None,
        )
        manifest = build_manifest(destination.name, job, target, placed, lowered, parity, origin)
        write_report(directory, manifest)
        write_manifest(directory, manifest, REPORT)
        sources.require_unchanged()
        if options.sign is not None:
            sign_bundle(directory, manifest, options.sign)
    checkpoint.close()
    return out


def _changed_by(options: CompileOptions, choice: Choice | None) -> str | None:
    """The option that makes other weights of the checkpoint's, if one does."""
    if options.lora is not None:
        return "--lora"
    if options.elastic is not None:
        return "--elastic"
    return None if choice is None else "a slice"


def _largest(size: Size, config: TextConfig) -> Choice | None:
    """The slice that the largest of several sizes is, if it is not the whole checkpoint."""
    if size.plan.is_whole(config):
        return None
    return Choice(
        size.plan, None, f"{size.name} is the largest size, {len(size.plan.kept)} of {config.num_layers} layers"
    )


def _peak_memory(options: CompileOptions, recipe: Recipe, runtimes: Sequence[Runtime]) -> Callable[[TextConfig], int]:
    """Bytes that a bundle of some configuration takes at most in any of ``runtimes``, by the memory ledger."""

    def peak(config: TextConfig) -> int:
        context = _context(options.context, config)
        prefill = max(_prefill_lengths(options.prefill_lengths, context))
        core = sum(recipe.scheme(spec).nbytes(spec.shape) for spec in text_weights(config).values())
        return max(
            max(memory_ledger(config, recipe, context, prefill, r, [_core_of(r, core)])["peak"].values())
            for r in runtimes
        )

    return peak


def _core_of(runtime: Runtime, nbytes: int) -> LoweredSubgraph:
    return LoweredSubgraph("core", runtime, "", "", nbytes, (), None)


def _require_modalities(backend: Backend, wanted: Sequence[Modality]) -> None:
    if missing := [m for m in wanted if m not in backend.modalities]:
        raise TargetError(
            f"{backend.runtime} bundles have no {' and no '.join(missing)} yet: use another --runtime, or leave "
            f"it out with --modalities {','.join(m for m in wanted if m not in missing)}"
        )


def _modalities(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    chosen = MODALITIES if asked is None else asked
    if unknown := [m for m in chosen if m not in MODALITIES]:
        raise TargetError(f"unknown modality {unknown[0]!r}, expected some of {', '.join(MODALITIES)}")
    if "text" not in chosen:
        raise TargetError("--modalities must include text: the towers speak through the text model")
    return chosen


def _context(asked: int | None, config: TextConfig) -> int:
    context = min(DEFAULT_CONTEXT, config.max_context) if asked is None else asked
    if not 1 < context <= config.max_context:
        raise ContextError(f"--context {context} is outside what the model was made for, 2 to {config.max_context}")
    return context


def _prefill_lengths(asked: tuple[int, ...] | None, context: int) -> tuple[int, ...]:
    lengths = tuple(n for n in DEFAULT_PREFILL if n < context) or (context - 1,) if asked is None else asked
    if bad := [n for n in lengths if not 1 < n < context]:
        raise ContextError(f"--prefill-lengths {bad[0]} is outside 2 to {context - 1}, the context less one")
    return tuple(sorted(set(lengths)))


def _resolutions(asked: tuple[int, ...] | None, checkpoint: Checkpoint, modalities: Collection[str]) -> tuple[int, ...]:
    if "vision" not in modalities or checkpoint.vision is None:
        if asked:
            raise TargetError("--image-sizes was given, but no vision tower is compiled: leave it out")
        return ()
    own = load_side(checkpoint.directory) or max(DEFAULT_RESOLUTIONS)
    # a tower has not learnt from pictures larger than its processor makes
    default = [side for side in DEFAULT_RESOLUTIONS if side <= own] or [own]
    resolutions = tuple(dict.fromkeys(asked or default))
    load_resample(checkpoint.directory)
    layout = read_layout(checkpoint.vision)
    for side in resolutions:
        layout.check_resolution(side)
    return resolutions


def _join(parts: Sequence[Lowered]) -> Lowered:
    files = {f.path: f for part in parts for f in part.files}
    sizes = {name: delegation for part in parts for name, delegation in part.sizes.items()}
    return Lowered(tuple(files.values()), tuple(s for part in parts for s in part.subgraphs), sizes)
