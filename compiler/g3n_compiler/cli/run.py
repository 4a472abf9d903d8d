"""``g3n-run``: generate or chat from a bundle on the host, streaming, through the stock engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from g3n_compiler.cli.chat import Chat, require_answer, say, tell_if_cut
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.cli.guard import GuardedCommand
from g3n_compiler.cli.options import (
    BACKEND,
    CONTEXT,
    SEED,
    THREADS,
    TOKENS,
    VERBOSE,
    VISION_BACKEND,
    FileName,
    Finite,
    Words,
    placement,
)
from g3n_compiler.cli.show import show
from g3n_compiler.lower.registry import BACKENDS
from g3n_runtime.bundle import Bundle, open_bundle
from g3n_runtime.chat import VIDEO_RATE, VIDEO_RATES, Attachments, ChatEngine, Device, Placement, Sampler
from g3n_runtime.engines import ELASTIC, IGNORED_SAMPLING, open_engine
from g3n_runtime.errors import EngineError


@click.command(
    cls=GuardedCommand,
    examples=[
        ('g3n-run exported/nano-host-int4 "Reverse: stone river house"', "one answer"),
        (
            'g3n-run exported/nano-host-int4 --temperature 0 --expect "Reversed: c b a" "Reverse: a b c"',
            "any other answer is an error",
        ),
        ("g3n-run exported/nano-host-int4", "a chat"),
        ('g3n-run exported/e2b-host-int4 --image cat.jpg "What is this?"', "about a picture"),
    ],
    groups={
        "Prompt": ("images", "audio", "video", "video_fps", "system", "expect"),
        "Adapter": ("lora",),
        "Sampling": ("max_tokens", "temperature", "top_k", "top_p", "seed"),
        "Sizes of an elastic bundle": ("size", "draft", "target_speed"),
    },
    remark="An answer that was cut short is reported on stderr and is not an error.",
)
@click.argument("bundle", type=FileName())
@click.argument("prompt", type=Words(), required=False)
@click.option("--image", "images", type=FileName(), multiple=True, help="Picture to ask about; repeatable.")
@click.option("--audio", type=FileName(), multiple=True, help="Sound to ask about; repeatable.")
@click.option("--video", type=FileName(), help="Video to ask about: pictures at --video-fps, and its sound.")
@click.option(
    "--video-fps",
    type=Finite(*VIDEO_RATES),
    default=VIDEO_RATE,
    show_default=True,
    help="Pictures per second of --video.",
)
@click.option("--system", type=Words(), help="System text, given before the first turn.")
@click.option("--lora", type=FileName(), help="Adapter's file of g3n-lora, for a bundle of --lora-rank.")
@click.option("--expect", type=Words(), help="The right answer to PROMPT: any other one is an error.")
@click.option("--runtime", type=click.Choice(list(BACKENDS)), help="Engine [default: the bundle's first].")
@BACKEND
@VISION_BACKEND
@CONTEXT
@click.option("--max-tokens", type=TOKENS, default=256, show_default=True, help="Longest answer.")
@click.option("--temperature", type=Finite(0, 1000), help="0 is greedy [default: the bundle's].")
@click.option("--top-k", type=TOKENS, help="[default: the bundle's]")
@click.option("--top-p", type=Finite(0, 1), help="[default: the bundle's]")
@click.option("--seed", type=SEED, help="[default: 0]")
@click.option("--threads", type=THREADS, default=2, show_default=True)
@click.option(
    "--size", type=Words(), help="Size of an elastic bundle, or auto: what fits the free memory [default: the largest]."
)
@click.option("--draft", type=Words(), help="Smaller size that drafts for the largest; needs --temperature 0.")
@click.option("--target-speed", type=Finite(0, 1_000_000), help="Tokens per second that --size auto aims at.")
@click.option("--skip-hashes", is_flag=True, help="Trust the files: do not hash them before loading.")
@VERBOSE
@reports_errors
def main(
    bundle: Path,
    prompt: str | None,
    images: tuple[Path, ...],
    audio: tuple[Path, ...],
    video: Path | None,
    video_fps: float,
    system: str | None,
    lora: Path | None,
    expect: str | None,
    runtime: str | None,
    backend: Device,
    vision_backend: Device | None,
    context: int | None,
    max_tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    threads: int,
    size: str | None,
    draft: str | None,
    target_speed: float | None,
    skip_hashes: bool,
    verbose: bool,
) -> None:
    """Answer PROMPT from BUNDLE, or chat when no PROMPT is given. Images, sounds and a video go with the first turn."""
    if expect is not None and prompt is None:
        raise click.UsageError("--expect needs a PROMPT: it names the answer to it")
    opened = open_bundle(bundle, check_hashes=not skip_hashes)
    chosen = opened.runtimes[0] if runtime is None else runtime
    given = {name for name, value in (("top_k", top_k), ("top_p", top_p), ("seed", seed)) if value is not None}
    if refused := sorted(given & IGNORED_SAMPLING[chosen]):
        raise EngineError(
            f"the stock {chosen} runner cannot set {', '.join(refused)}: leave the option out, or use --runtime litert"
        )
    sampler = _sampler(opened, temperature, top_k, top_p, seed or 0)
    attachments = Attachments(images, audio)
    if video is not None:
        attachments = _with_video(attachments, video, video_fps, opened, context, (prompt or "", system or ""))
    with quiet_toolchains(verbose):
        where = placement(backend, vision_backend)
        engine = _open(opened, runtime, threads, where, context, size, draft, target_speed, lora)
        try:
            engine.conversation.system = system
            if prompt is None:
                Chat(engine, sampler, max_tokens, attachments).run()
                return
            answer = engine.send(prompt, sampler, max_tokens, attachments)
            said = say(answer)
            click.echo()
            tell_if_cut(answer.ended, max_tokens)
            if expect is not None:
                require_answer(said, expect)
        finally:
            engine.close()


def _with_video(
    others: Attachments, video: Path, rate: float, bundle: Bundle, context: int | None, texts: tuple[str, ...]
) -> Attachments:
    """``others`` and what of ``video`` fits the context beside them and ``texts``; says on stderr what that is."""
    from g3n_runtime.video_turn import Room, read_for

    room = Room.of(bundle, context, texts, len(others.images), len(others.audio))
    used, notes = read_for(room, video, rate)
    for note in notes:
        show(f"({note})", err=True)
    return replace(others, video=used)


def _open(
    bundle: Bundle,
    runtime: str | None,
    threads: int,
    where: Placement,
    context: int | None,
    size: str | None,
    draft: str | None,
    target_speed: float | None,
    lora: Path | None,
) -> ChatEngine:
    """The stock engine, or our loop over sizes if one was asked for."""
    if size is None and draft is None:
        return open_engine(bundle, runtime, threads, where, context, lora)
    if not bundle.manifest.get("sizes"):
        raise EngineError(f"{bundle.directory.name} has one size only: compile it with --elastic, or leave --size out")
    if context is not None:
        raise EngineError("sizes of an elastic bundle have the context that it was compiled for: leave --context out")
    if runtime is not None and runtime not in ELASTIC:
        raise EngineError(f"--size needs --runtime {' or '.join(sorted(ELASTIC))}: in {runtime} a bundle has one size")
    from g3n_runtime.litert.elastic_chat import ElasticChat

    return ElasticChat(bundle, size or bundle.manifest["sizes"][0]["name"], threads, draft, target_speed, where.text)


def _sampler(bundle: Bundle, temperature: float | None, top_k: int | None, top_p: float | None, seed: int) -> Sampler:
    default = bundle.manifest["sampler"]
    return Sampler(
        default["temperature"] if temperature is None else temperature,
        default["top_k"] if top_k is None else top_k,
        default["top_p"] if top_p is None else top_p,
        seed,
    )


if __name__ == "__main__":
    main()
