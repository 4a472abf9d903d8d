"""What target and backends can do of what is asked for; the rest is refused by the name of its option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.errors import TargetError
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.request.options import CompileOptions
from g3n_compiler.source import MODALITIES, TEXT
from g3n_compiler.targets import Target
from g3n_runtime.names import unknown


def choose_modalities(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    chosen = MODALITIES if asked is None else asked
    if strange := [m for m in chosen if m not in MODALITIES]:
        raise TargetError(unknown("modality", strange[0], MODALITIES))
    if TEXT not in chosen:
        raise TargetError("--modalities must include text: the towers feed the text model")
    return chosen


def require_modalities(backend: Backend, wanted: Sequence[str]) -> None:
    if missing := [m for m in wanted if m not in backend.modalities]:
        raise TargetError(
            f"{backend.runtime} bundles have no {' and no '.join(missing)} yet: use another --runtime, or leave "
            f"it out with --modalities {','.join(m for m in wanted if m not in missing)}"
        )


def require_sizes(backends: Mapping[Runtime, Backend]) -> None:
    able = [runtime for runtime, backend in backends.items() if backend.only_one_size is None]
    for backend in backends.values():
        if backend.only_one_size is not None:
            others = f"pass --runtime {able[0]}, or " if able else ""
            raise TargetError(f"{backend.only_one_size}: {others}leave --elastic out")


GPU_BITS = 4
"""The fewest bits of a matrix that LiteRT's GPU delegate takes: it refuses the whole graph for one of 2 bits."""


def fewest_bits(target: Target, backends: Mapping[Runtime, Backend]) -> int:
    """The fewest bits of a matrix that all that will run it have kernels for."""
    return max([backend.narrowest for backend in backends.values()] + [GPU_BITS] * target.accelerated)


def require_widths(target: Target, backends: Mapping[Runtime, Backend], recipe: Recipe) -> None:
    """Raise for a width that something that will run it has no kernels for."""
    fewest = fewest_bits(target, backends)
    schemes = [*recipe.roles.items(), *recipe.weights.items()]
    name, scheme = min(schemes, key=lambda item: item[1].bits)
    if scheme.bits < fewest:
        unable = [backend.runtime for backend in backends.values() if backend.narrowest > scheme.bits]
        what = f"{unable[0]} has" if unable else f"the GPU, on which --target {target.name} places it, has"
        raise TargetError(
            f"the recipe has {scheme.label} in {name}, and {what} no kernels for fewer than {fewest} bits: use "
            "--target android --runtime litert, or another recipe"
        )


def require_tools(backends: Mapping[Runtime, Backend], modalities: Sequence[str]) -> None:
    if not any(backend.takes_tools for backend in backends.values()) or tuple(modalities) != (TEXT,):
        raise TargetError(
            "--tools makes a LiteRT bundle of text: LiteRT-LM reads tool calls only in files of a type that cannot "
            "have this model's sound and pictures. Use --runtime litert --modalities text"
        )


def require_lora_rank(options: CompileOptions, target: Target, backends: Mapping[Runtime, Backend]) -> None:
    """Raise unless every engine that the bundle is for adds adapters of this rank, where the target runs the text."""
    rank = options.lora_rank
    if target.place("core").device != "cpu":
        raise TargetError(
            f"--lora-rank is for text on the CPU, --target {target.name} has it on the {target.place('core').device}: "
            "use --target host, or merge the adapter with --lora"
        )
    for backend in backends.values():
        if not backend.lora_ranks:
            raise TargetError(
                f"--lora-rank is for LiteRT-LM, the stock {backend.runtime} engine adds no adapter while it runs: use "
                "--runtime litert, or merge the adapter with --lora"
            )
        if rank not in backend.lora_ranks:
            able = " and ".join(str(n) for n in backend.lora_ranks)
            raise TargetError(
                f"--lora-rank {rank}: the stock {backend.runtime} engine takes ranks {able} alone. Pass the next "
                "larger one: an adapter of a smaller rank is padded"
            )
    for option, given in (("--lora", options.lora), ("--elastic", options.elastic)):
        if given is not None:
            raise TargetError(
                f"--lora-rank does not go with {option}: adapters that the engine adds are those of the checkpoint's "
                "own weights, and of a bundle with one size. Leave one of them out"
            )


def require_single(backends: Mapping[Runtime, Backend], forms: Sequence[str]) -> None:
    """Raise unless a runtime writes the whole model in ``forms``, each asked for once."""
    able = {form: runtime for runtime, backend in backends.items() for form in backend.single_forms}
    if not able:
        raise TargetError(
            "--single-pte adds an ExecuTorch program to a bundle, and this one is for "
            f"{' and '.join(backends)}: use --runtime executorch or both, or leave --single-pte out"
        )
    if strange := [form for form in forms if form not in able]:
        raise TargetError(unknown("form of --single-pte", strange[0], tuple(able)))
    if len(set(forms)) < len(forms):
        raise TargetError(f"--single-pte {','.join(forms)} names a form twice: name each once")


def require_turns(target: Target, backends: Mapping[Runtime, Backend], tokenizer: TextTokenizer) -> None:
    """Raise where a bundle is for the app's engines that have no Jinja, and the template cannot do without."""
    if target.name != "host" and any(backend.needs_turns for backend in backends.values()):
        tokenizer.require_turns()


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
