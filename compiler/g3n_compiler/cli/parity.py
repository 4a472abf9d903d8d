"""The comparisons of ``g3n-verify``: a finished bundle against the checkpoint that it came from."""

from __future__ import annotations

from pathlib import Path

from g3n_compiler.checkpoint.hub import compiled_from, resolve_adapter, resolve_checkpoint, stay_offline
from g3n_compiler.checkpoint.hub_id import HubId, Named
from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.lora import CONFIG, WEIGHTS
from g3n_compiler.checkpoint.reader import note_texts
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import CheckpointError
from g3n_compiler.lower.arm64_kit import ArmKit
from g3n_compiler.lower.job import Job, Progress
from g3n_compiler.lower.registry import BACKENDS, get_backend
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.quantize.saved import recipe_of
from g3n_compiler.request.capabilities import find_accelerator
from g3n_compiler.slice.elastic import choose_sizes
from g3n_compiler.slice.plan import Slice
from g3n_compiler.source import Source
from g3n_compiler.targets import get_target
from g3n_compiler.verify.arm64 import verify_arm64
from g3n_compiler.verify.checks import Parity
from g3n_compiler.verify.run import verify
from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import Device


def compare(
    opened: Bundle,
    checkpoint: Named | None,
    lora: Named | None,
    kit: Path | None,
    backend: Device | None,
    step: Progress,
) -> Parity:
    """Compare ``opened`` with its checkpoint or, with the emulated Arm machine in ``kit``, with itself on Arm.

    Args:
        backend: ``cpu`` to leave the GPU out, ``gpu`` to insist on it; by default it is run if there is one.

    Raises:
        TargetError: the bundle has nothing for a GPU, or the machine has none.
        CheckpointError: the checkpoint or the adapter is not what the bundle came from.
        SourceChanged: one of them was changed meanwhile.
    """
    manifest = opened.manifest
    arm = None if kit is None else ArmKit(kit.absolute())
    size = manifest["model"]["size"]
    if checkpoint is None:
        checkpoint = compiled_from(size, hub_origin(opened))
    directory = resolve_checkpoint(size, checkpoint, step)
    adapter = None if lora is None else resolve_adapter(lora, step)
    stay_offline()
    inputs = Inputs()
    note_texts(directory, inputs)
    if adapter is not None:
        inputs.note(adapter / name for name in (CONFIG, WEIGHTS))
    source = Source.open(directory, plan_of(opened), adapter, manifest["model"]["modalities"])
    source.checkpoint.note(inputs)
    step("hashing the checkpoint")
    check_origin(opened, source)
    backends = {r: get_backend(r) for r in BACKENDS if r in opened.runtimes}
    target = get_target(manifest["target"]["name"])
    accelerator = None if backend == "cpu" else find_accelerator(target, backends, required=backend == "gpu")
    names = [size["name"] for size in manifest.get("sizes", ())]
    largest, *smaller = choose_sizes(names, source.whole) if names else [None]
    if largest is not None:
        source = source.divided(largest.config)
    if manifest["recipe"].get("rewritten", False):
        step("choosing how to spread the weights' scales, as the compile did")
        source = source.rewritten()
    job = Job(
        source=source,
        tokenizer=load_tokenizer(source.directory, gemma3n_config(source.text), source.modalities),
        recipe=recipe_of(manifest),
        target=target,
        context=manifest["context"],
        prefill_lengths=tuple(manifest["prefill_lengths"]),
        directory=opened.directory,
        files=opened.paths,
        progress=step,
        resolutions=tuple((manifest.get("vision") or {}).get("image_sizes", ())),
        lora_rank=manifest.get("lora", {}).get("rank", 0),
        sizes=tuple(size for size in smaller if size is not None),
        single=tuple(single["form"] for single in manifest.get("single_pte", ())),
        accelerator=accelerator,
    )
    parity = verify(job, backends) if arm is None else verify_arm64(job, opened, backends, arm)
    opened.require_unchanged()
    inputs.require_unchanged()
    return parity


def plan_of(bundle: Bundle) -> Slice | None:
    """The slice of the checkpoint that the bundle was made from, if it is not the whole."""
    made = bundle.manifest["model"]["slice"]
    return Slice(tuple(made["kept"]), tuple(made["ffn_dims"])) if "kept" in made else None


def hub_origin(bundle: Bundle) -> HubId | None:
    """The repository on the hub that the bundle's checkpoint was fetched from, as its manifest says."""
    told = bundle.manifest["provenance"].get("hub")
    return None if told is None else HubId(told["id"], told["revision"])


def check_origin(bundle: Bundle, source: Source) -> None:
    recorded = bundle.manifest["provenance"]
    if changed := sorted(set(recorded["checkpoint"].items()) ^ set(source.checkpoint.sha256().items())):
        raise CheckpointError(
            f"{changed[0][0]} of {source.directory} is not what the bundle came from: pass its own --checkpoint"
        )
    if recorded["adapter"] != (None if source.adapter is None else source.adapter.sha256):
        raise CheckpointError("the bundle was compiled with another adapter: pass its own --lora, or none")
