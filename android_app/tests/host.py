"""The app without its screens on this machine's JVM, and what the Python side says to the same prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from android_app.tests.conftest import ROOT, run
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY
from g3n_runtime.engines import open_engine

RUNTIMES = ("litert", "executorch")
WAYS = ("litert", "MODULE", "LLM_MODULE")
"""LiteRT-LM, our loop over ExecuTorch's Java module, and its own runner of language models."""
PROMPTS = ("What is a dog?", 'Use "river" in a sentence.', "What does 'quickly' mean?")
TOKENS = 24


class Host:
    """The app without its screens, see ``HostChat.kt``.

    Args:
        litertlm: LiteRT-LM's C library.
        environment: what the JVM finds in its environment besides this process's own.
    """

    def __init__(
        self, android: Path, shims: Path, litertlm: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._environment = dict(environment or {})
        kotlin = android / "parts" / "kotlin-compiler" / "lib" / "kotlin-stdlib.jar"
        schema = ROOT / "runtime_shims" / "g3n_runtime"
        self._command = [
            "java", "-Xmx512m", f"-Dg3n.shims={shims}", f"-Dg3n.litertlm={litertlm}",
            "-cp", f"{android}/jvm.jar:/usr/share/java/gson.jar:{kotlin}:{schema}:{executorch_classes(android)}",
        ]  # fmt: skip

    def chat(
        self, bundle: Path, runtime: str, session: Path, *prompts: str, tokens: int = TOKENS, **properties: str | int
    ) -> dict[str, Any]:
        """``runtime`` may also be one of ``WAYS``; through ExecuTorch the app takes the first that loads the bundle.

        ``properties`` are those of ``HostChat.kt``: ``cache``, ``device`` and ``free``.
        """
        chosen = [f"-Dg3n.{name}={value}" for name, value in properties.items()]
        if runtime not in RUNTIMES:
            runtime, chosen = "executorch", [*chosen, f"-Dg3n.way={runtime}"]
        main = "org.g3n.host.HostChatKt"
        words: list[str | Path] = [*self._command, *chosen, main, bundle, runtime, str(tokens), session, *prompts]
        out = run(*words, **self._environment)
        return json.loads(out.strip().splitlines()[-1])


def executorch_classes(android: Path) -> str:
    """The classes of ExecuTorch and of what it loads its library with, as the APK has them."""
    parts = android / "parts"
    loader = next((parts / "maven-apk").glob("nativeloader-*.jar"))
    return f"{parts}/react-native-executorch/android/libs/classes.jar:{android}/fbjni.jar:{loader}"


def python_answers(
    bundle: Path, runtime: str, system: str | None = None, prompts: Sequence[str] = PROMPTS
) -> list[str]:
    """What the stock engine of ``runtime`` says to ``prompts``, one after the other in one conversation."""
    engine = open_engine(open_bundle(bundle), runtime, threads=1)
    engine.conversation.system = system
    try:
        return ["".join(engine.send(prompt, GREEDY, TOKENS)).strip() for prompt in prompts]
    finally:
        engine.close()


def keep(session: Path, bundle: Path, *turns: tuple[str, str]) -> None:
    """Write the session file of a conversation with ``bundle``, of roles and texts, as the app left it."""
    said = [{"role": role, "text": text, "partial": False, "attachments": []} for role, text in turns]
    entries = {"version": 1, "bundle": str(bundle), "runtime": "litert", "device": "cpu", "draft": "", "turns": said}
    session.write_text(json.dumps(entries), "utf-8")
