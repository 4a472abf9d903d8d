"""The report's commands: how this very bundle is run, by the roles of its files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from g3n_runtime.prompt import read_template

HELLO = "What is a river?"


@dataclass(frozen=True)
class Command:
    """Lines to copy into a shell, or into Python, in the bundle's folder."""

    title: str
    lines: str
    language: str = "shell"


def commands(manifest: dict[str, Any]) -> list[Command]:
    """Ours for each runtime, then the stock engines'."""
    modalities = manifest["model"]["modalities"]
    runtimes = list(manifest["memory"])
    made = []
    for runtime in runtimes:
        run = f"g3n-run . --runtime {shlex.quote(runtime)}"
        lines = [f"{run} --temperature 0 {shlex.quote(_prompt(manifest, runtime))}"]
        if "vision" in modalities:
            lines.append(f"{run} --image picture.jpg {shlex.quote('What is in this picture?')}")
        if "audio" in modalities:
            lines.append(f"{run} --audio sound.wav {shlex.quote('What is said?')}")
        if manifest.get("sizes"):
            lines.append(f"{run} --size auto")
        made.append(Command(f"Ask it, or chat, with {runtime}", "\n".join([*lines, run])))
    made.append(Command("Look at it and check it again", "g3n-inspect .\ng3n-verify ."))
    made.append(Command("Put it on a phone", "g3n-push ."))
    paths = {entry["role"]: entry["path"] for entry in manifest["files"]}
    made += [stock(paths, manifest) for roles, stock in STOCK.items() if set(roles) <= set(paths)]
    return made


def _prompt(manifest: dict[str, Any], runtime: str) -> str:
    """A prompt whose greedy answer the page shows."""
    return next((str(t["prompt"]) for t in manifest["parity"]["texts"] if t["runtime"] == runtime), HELLO)


def _litert_lm(paths: Mapping[str, str], manifest: dict[str, Any]) -> Command:
    path, prompt = shlex.quote(f"./{paths['litertlm']}"), shlex.quote(_prompt(manifest, "litert"))
    title = f"The stock engine alone: LiteRT-LM {manifest['provenance']['versions'].get('litert-lm', '')}".rstrip()
    if "lora_none" in paths:  # its command line has no option for an adapter, without which the engine answers wrongly
        lines = (
            "import litert_lm",
            "",
            f"adapter = litert_lm.LoraConfig(lora_path={paths['lora_none']!r})  # none; g3n-lora makes others",
            f"with litert_lm.Engine({paths['litertlm']!r}, cache_dir=':memory') as engine:",
            "    with engine.create_conversation(lora_config=adapter) as conversation:",
            f"        print(conversation.send_message({_prompt(manifest, 'litert')!r}))",
        )
        return Command(title, "\n".join(lines), "Python")
    # A cache on the disk would lie among the bundle's files.
    return Command(title, f"litert-lm run {path} --backend cpu --cache memory --temperature 0 --prompt {prompt}")


def _said(manifest: dict[str, Any]) -> str:
    """The prompt with its turn markers, which ExecuTorch's runners leave to their caller, without the bos."""
    template = read_template(manifest)
    return template.render([{"role": "user", "content": _prompt(manifest, "executorch")}]).removeprefix(template.bos)


def _text_llm_runner(paths: Mapping[str, str], manifest: dict[str, Any]) -> Command:
    model, tokenizer, tables = (paths[role] for role in ("executorch_model", "tokenizer_json", "executorch_tables"))
    title = f"The stock engine alone: ExecuTorch {manifest['provenance']['versions'].get('executorch', '')}".rstrip()
    lines = (
        "import executorch.kernels.quantized",
        "from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner",
        "",
        f"runner = TextLLMRunner({model!r}, {tokenizer!r}, {tables!r})",
        "config = GenerationConfig(echo=False, max_new_tokens=64, temperature=0.0, num_bos=1)",
        f"runner.generate({_said(manifest)!r}, config)",
    )
    return Command(title, "\n".join(lines), "Python")


def _multimodal_runner(paths: Mapping[str, str], manifest: dict[str, Any]) -> Command:
    lines = (
        "import executorch.kernels.quantized",
        "from executorch.extension.llm.runner import GenerationConfig, MultimodalRunner, make_text_input",
        "",
        f"runner = MultimodalRunner({paths['executorch_stock']!r}, {paths['tokenizer_json']!r})",
        "config = GenerationConfig(echo=False, max_new_tokens=64, temperature=0.0, num_bos=1)",
        f"runner.generate([make_text_input({_said(manifest)!r})], config)",
    )
    title = "ExecuTorch's stock engine for media; docs/apps/llama-demo.md has a picture and a sound"
    return Command(title, "\n".join(lines), "Python")


STOCK: dict[tuple[str, ...], Callable[[Mapping[str, str], dict[str, Any]], Command]] = {
    ("litertlm",): _litert_lm,
    ("executorch_model", "executorch_tables", "tokenizer_json"): _text_llm_runner,
    ("executorch_stock", "tokenizer_json"): _multimodal_runner,
}
"""How a stock engine is called, by the roles of the files that it reads."""
