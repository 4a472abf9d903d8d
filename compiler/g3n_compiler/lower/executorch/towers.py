"""The towers of an ExecuTorch bundle: each is a program of its own, loaded with the first picture or sound.

The stock multimodal runner expects one program with everything, and reads it whole into memory; our host loop
(:mod:`g3n_runtime.executorch.row_loop`) passes the outputs of these programs to ``text_decoder``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from g3n_compiler.checkpoint.reader import file_sha256
from g3n_compiler.lower.artifact import Delegation, Files, LoweredFile, LoweredSubgraph
from g3n_compiler.lower.executorch.audio import write_audio
from g3n_compiler.lower.executorch.vision import write_vision
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.opened import StreamTrace
from g3n_compiler.lower.signatures.vision import adapter_read
from g3n_compiler.lower.subgraphs import Subgraph
from g3n_runtime.executorch.audio import CLIP, END, STREAM, ExecuTorchAudio
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.executorch.vision import ExecuTorchVision, encoder_name


def lower_towers(job: Job) -> tuple[list[LoweredFile], list[LoweredSubgraph]]:
    """Lower every tower of ``job`` into its folder."""
    files: list[LoweredFile] = []
    subgraphs: list[LoweredSubgraph] = []

    def add(subgraph: Subgraph, file: str, role: str, signatures: tuple[str, ...], delegation: Delegation) -> None:
        path = job.directory / file
        files.append(LoweredFile(file, role))
        size = path.stat().st_size
        subgraphs.append(LoweredSubgraph(subgraph, "executorch", role, file_sha256(path), size, signatures, delegation))

    if (vision := job.vision) is not None:
        job.progress("executorch: lowering the vision tower")
        read = adapter_read(job.source, vision)
        name = f"{job.stem}-vision.pte"
        made = write_vision(vision, job.config.hidden_size, job.recipe, read, job.resolutions, job.directory / name)
        methods = tuple(encoder_name(side) for side in job.resolutions)
        add("vision_encoder", name, ROLES["vision"], methods, made)
    if (audio := job.audio) is not None:
        job.progress("executorch: lowering the audio tower")
        name = f"{job.stem}-audio.pte"
        made = write_audio(audio, job.recipe, job.source.read, job.directory / name)
        add("audio_encoder", name, ROLES["audio"], (CLIP, STREAM, END), made)
    return files, subgraphs


def open_vision(files: Files) -> ExecuTorchVision | None:
    """The vision tower among a bundle's files."""
    path = files.get(ROLES["vision"])
    return None if path is None else ExecuTorchVision(path)


def open_audio(files: Files) -> TracedAudio | None:
    """The audio tower among a bundle's files."""
    path = files.get(ROLES["audio"])
    return None if path is None else TracedAudio(path)


class TracedAudio(ExecuTorchAudio):
    """See :class:`g3n_compiler.lower.opened.AudioModel`."""

    def stream_steps(self, sound: np.ndarray) -> Iterator[StreamTrace]:
        state = self.empty_state()
        for step in self.steps(sound):
            out = self.step_layers(step, state)
            frames, token, after = out[: -len(state) - 2], out[-len(state) - 1], out[-len(state) :]
            yield StreamTrace(step.mel, step.mask, state, frames, token[0], after)
            state = after
