"""What the user asked to compile, checked against the checkpoint: everything that takes only seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from g3n_compiler.bundle.destination import Destination, claim
from g3n_compiler.bundle.fingerprint import as_json
from g3n_compiler.bundle.kinds import BUNDLE
from g3n_compiler.bundle.names import bundle_name, file_stem
from g3n_compiler.bundle.signing import SigningKey
from g3n_compiler.checkpoint.calibrated import check_calibration, read_calibration
from g3n_compiler.checkpoint.hub import name_size, resolve_adapter, resolve_checkpoint, stay_offline
from g3n_compiler.checkpoint.hub_id import Named
from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.lora import CONFIG, TEXT_FILES, WEIGHTS, require_adapter
from g3n_compiler.checkpoint.lora_text import require_same_text
from g3n_compiler.checkpoint.reader import note_texts
from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer, read_tokenizer
from g3n_compiler.checkpoint.weight_files import require_adapter_named
from g3n_compiler.errors import SliceError, TargetError
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.folder_check import check_folder
from g3n_compiler.models.gemma3n.image_processor import load_resample, load_side
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.gemma3n.vision_layout import read_layout
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.shape import TextShape
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.quantize.saved import find_recipe, require_weights
from g3n_compiler.request_lengths import choose_context, choose_prefill, peak_memory
from g3n_compiler.slice.choose import BUDGET_UNITS, Choice, SliceOptions, choose_slice, parse_quantity
from g3n_compiler.slice.elastic import Size, choose_sizes
from g3n_compiler.source import MODALITIES, TEXT, Source
from g3n_compiler.targets import Target, choose_runtimes, get_target
from g3n_compiler.tensor_account import Account, account
from g3n_compiler.verify.held import HeldTexts, own_held_texts, read_held_texts
from g3n_compiler.widths.bounds import Bounds
from g3n_runtime.names import unknown

DEFAULT_RESOLUTIONS = (768, 512, 256)
BESIDE_THE_FILES = {
    "tokenizer": "it is read from files that the key has by their digests",
    "account": "it is counted from the checkpoint, which the key has by its digests",
    "inputs": "they are the same files",
    "out": "it is how the user wrote the destination, whose name is in the key",
    "command": "the manifest quotes it, but other words for the same request make the same files otherwise",
}
"""Fields of :class:`Request` that are not in the bundle's key, and why; all others are."""
FROM_CHECKPOINT = ("checkpoint", "family", "whole", "rewrites")
"""Fields of :class:`Source` that follow from the checkpoint's files, which the key has by their digests (and whether
weights are rewritten, from the recipe)."""


@dataclass(frozen=True)
class CompileOptions:
    """What the user asked for; ``None`` means the default of the target or of the model."""

    target: str = "host"
    size: str | None = None
    checkpoint: Named | None = None
    runtime: str | None = None
    recipe: str = "int4"
    context: int | None = None
    prefill_lengths: tuple[int, ...] | None = None
    modalities: tuple[str, ...] | None = None
    resolutions: tuple[int, ...] | None = None
    lora: Named | None = None
    soc: str | None = None
    out: Path | None = None
    command: str = ""
    slicing: SliceOptions = field(default_factory=SliceOptions)
    elastic: tuple[str, ...] | None = None
    sign: SigningKey | None = None
    force: bool = False
    """Compile also what is up to date."""
    require_accelerator: bool = False
    """Refuse to compile where nothing can run what the target places on an accelerator."""
    held_texts: Path | None = None
    """A file of texts to measure the loss of rounding on."""
    max_loss: float | None = None
    """Refuse a bundle that loses more of the perplexity: 0.03 for 3%."""
    max_size: str | None = None
    """Refuse a bundle whose files for one runtime are larger, such as ``2.5GB``."""
    tools: bool = False
    """Make the file one whose calls of tools LiteRT-LM reads."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What will be compiled: the options, checked against the target, the backends and the checkpoint."""

    target: Target
    recipe: Recipe
    backends: Mapping[Runtime, Backend]
    source: Source
    tokenizer: TextTokenizer
    account: Account
    size: str
    """The manifest's name for the checkpoint's size."""
    choice: Choice | None
    """The slice, unless the whole checkpoint is compiled."""
    sizes: tuple[Size, ...]
    """The sizes of an elastic bundle, largest first."""
    context: int
    prefill_lengths: tuple[int, ...]
    resolutions: tuple[int, ...]
    inputs: Inputs
    """The files that are read, which must not change during the compile."""
    out: Path
    """The bundle's folder, as the user named it."""
    destination: Destination
    """Where that path leads, and what is there already."""
    command: str
    accelerator: str | None
    """What of this machine runs the subgraphs that the target places on an accelerator."""
    require_accelerator: bool
    held: HeldTexts | None
    """The texts on which the loss of rounding is measured; none if nothing is rounded."""
    bounds: Bounds
    tools: bool
    stem: str
    """Begins the names of the files that people move into other apps."""

    @property
    def name(self) -> str:
        return self.destination.name

    def decides_bytes(self) -> dict[str, Any]:
        """Everything that was asked for and that decides the bundle's files, as JSON values.

        It goes by the fields, so that a new one is in the key unless :data:`BESIDE_THE_FILES` has it.

        Raises:
            TypeError: a field has no form as JSON, and nobody decided what of it counts.
        """
        source, adapter = self.source, self.source.adapter
        read = {f.name: getattr(source, f.name) for f in fields(source) if f.name not in FROM_CHECKPOINT}
        counted = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in BESIDE_THE_FILES}
        return {
            name: as_json(value)
            for name, value in {
                **counted,
                "target": self.target.name,
                "backends": list(self.backends),
                "source": read | {"adapter": None if adapter is None else adapter.sha256},
                "destination": self.destination.name,
            }.items()
        }


def open_request(
    options: CompileOptions, backend_for: Callable[[Runtime], Backend], progress: Callable[[str], None]
) -> Request:
    """Check everything that headers and small files tell: what was typed first, then what lies on the disk.

    Raises:
        G3nError: what was found, what was expected and what to do.
    """
    target = get_target(options.target)
    target.check(options.soc)
    recipe = find_recipe(options.recipe)
    bounds = _bounds(options)
    bounds.require_used(recipe)
    modalities = _modalities(options.modalities)
    size = name_size(options.size, options.checkpoint)
    options.slicing.check()
    backends = {runtime: backend_for(runtime) for runtime in choose_runtimes(target, options.runtime)}
    if options.elastic is not None:
        _require_sizes(backends)
    accelerator = find_accelerator(target, backends, options.require_accelerator)
    progress("reading the checkpoint")

    def remark(found: str) -> None:
        progress(f"note: {found}")

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
        choice = choose_slice(
            size, options.slicing, source.whole, peak_memory(options.context, options.prefill_lengths, recipe, backends)
        )
        sizes = () if options.elastic is None else choose_sizes(options.elastic, source.whole)
        if sizes:
            if choice is not None:
                raise SliceError("--elastic and another option each choose a slice: name all sizes in --elastic")
            choice = _largest(sizes[0], source.whole)
            progress(f"nesting the sizes {', '.join(s.name for s in sizes)}, the first for the stock engine")
        if choice is not None:
            source = source.sliced(choice.plan)
            progress(f"slicing: {choice.why}")
        check_calibration(source.directory, recipe.name, _changed_by(options, choice))
        if adapter is not None:
            source = source.adapted(adapter, remark)
        accounted = account(source, remark)
        for backend in backends.values():
            _require_modalities(backend, source.modalities)
        if options.tools and ("litert" not in backends or tuple(source.modalities) != (TEXT,)):
            raise TargetError(
                "--tools makes a LiteRT bundle of text: LiteRT-LM reads calls of tools only in files of a type that "
                "cannot have this model's sound and pictures. Use --runtime litert --modalities text"
            )
        if sizes:
            source = source.divided(sizes[0].config)
        require_weights(recipe, text_weights(source.text))
        context = choose_context(options.context, source.text)
        prefill_lengths = choose_prefill(options.prefill_lengths, context)
        resolutions = _resolutions(options.resolutions, source)
        tokenizer = load_tokenizer(source.directory, gemma3n_config(source.text), source.modalities, remark, spec)
        _require_turns(target, backends, tokenizer)
        if adapter is not None:
            require_same_text(adapter, tokenizer)
        out = (
            Path("exported") / bundle_name(size, choice, sizes, target, recipe) if options.out is None else options.out
        )
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
            require_accelerator=options.require_accelerator,
            held=_held_texts(options, recipe, source, tokenizer, inputs),
            bounds=bounds,
            tools=options.tools,
            stem=file_stem(options, size, choice, recipe),
        )
    except BaseException:
        source.close()
        raise


def _bounds(options: CompileOptions) -> Bounds:
    size = options.max_size
    return Bounds(None if size is None else parse_quantity(size, "--max-size", BUDGET_UNITS), options.max_loss)


def _held_texts(
    options: CompileOptions, recipe: Recipe, source: Source, tokenizer: TextTokenizer, inputs: Inputs
) -> HeldTexts | None:
    if recipe.name == "fp32":
        if options.held_texts is not None or options.max_loss is not None:
            raise TargetError("fp32 rounds nothing, so that nothing is lost: leave --eval and --max-loss out")
        return None
    if options.max_loss is not None and read_calibration(source.directory) is not None:
        raise TargetError(
            f"{source.directory} is rounded already, and what that cost cannot be told without the checkpoint that it "
            "was made from: leave --max-loss out"
        )
    if options.held_texts is None:
        return own_held_texts(source, tokenizer)
    inputs.note([options.held_texts])
    return read_held_texts(options.held_texts, tokenizer, source.text.max_context)


def find_accelerator(target: Target, backends: Mapping[Runtime, Backend], required: bool) -> str | None:
    """What runs the accelerator's subgraphs here, if the target has any.

    Raises:
        TargetError: it is required, and there is none.
    """
    found = (backend.accelerator for backend in backends.values()) if target.accelerated else iter(())
    name = next((driver for driver in found if driver is not None), None)
    if required and not target.accelerated:
        raise TargetError(f"--target {target.name} places nothing on a GPU: use --target pixel, or do not ask for one")
    if required and name is None:
        raise TargetError(
            "a GPU was asked for, but this machine has no Vulkan driver that LiteRT's GPU delegate takes: install your "
            "graphics card's, or make gpu-kit in the checkout of g3n"
        )
    return name


def _require_turns(target: Target, backends: Mapping[Runtime, Backend], tokenizer: TextTokenizer) -> None:
    """Raise where a bundle is for the app's engines that have no Jinja, and the template cannot do without."""
    if target.name != "host" and any(backend.needs_turns for backend in backends.values()):
        tokenizer.require_turns()


def _changed_by(options: CompileOptions, choice: Choice | None) -> str | None:
    """The option that changes the checkpoint's weights, if any."""
    if options.lora is not None:
        return "--lora"
    if options.elastic is not None:
        return "--elastic"
    return None if choice is None else "a slice"


def _largest(size: Size, shape: TextShape) -> Choice | None:
    """The slice for the largest of several sizes, unless it is the whole checkpoint."""
    if size.plan.is_whole(shape):
        return None
    return Choice(
        size.plan, None, f"{size.name} is the largest size, {len(size.plan.kept)} of {shape.num_layers} layers"
    )


def _require_sizes(backends: Mapping[Runtime, Backend]) -> None:
    able = [runtime for runtime, backend in backends.items() if backend.only_one_size is None]
    for backend in backends.values():
        if backend.only_one_size is not None:
            others = f"pass --runtime {able[0]}, or " if able else ""
            raise TargetError(f"{backend.only_one_size}: {others}leave --elastic out")


def _require_modalities(backend: Backend, wanted: Sequence[str]) -> None:
    if missing := [m for m in wanted if m not in backend.modalities]:
        raise TargetError(
            f"{backend.runtime} bundles have no {' and no '.join(missing)} yet: use another --runtime, or leave "
            f"it out with --modalities {','.join(m for m in wanted if m not in missing)}"
        )


def _modalities(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    chosen = MODALITIES if asked is None else asked
    if strange := [m for m in chosen if m not in MODALITIES]:
        raise TargetError(unknown("modality", strange[0], MODALITIES))
    if TEXT not in chosen:
        raise TargetError("--modalities must include text: the towers feed the text model")
    return chosen


def _resolutions(asked: tuple[int, ...] | None, source: Source) -> tuple[int, ...]:
    if "vision" not in source.modalities or source.vision is None:
        if asked:
            raise TargetError("--image-sizes was given, but no vision tower is compiled: leave it out")
        return ()
    own = load_side(source.directory) or max(DEFAULT_RESOLUTIONS)
    # the tower was not trained on pictures larger than those its processor makes
    default = [side for side in DEFAULT_RESOLUTIONS if side <= own] or [own]
    resolutions = tuple(dict.fromkeys(asked or default))
    load_resample(source.directory)
    layout = read_layout(source.vision)
    for side in resolutions:
        layout.check_resolution(side)
    return resolutions
