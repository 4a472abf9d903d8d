"""What OpenAI's client gets from ``litert-lm serve`` over bundles of nano, and what ``unpack`` and ``pack`` keep.

    python3.11 -m venv ENV && ENV/bin/pip install litert-lm==0.18.1 openai soundfile
    ENV/bin/python benchmarks/serve.py exported/nano-host-int4/nano-int4.litertlm TEXT.litertlm

The first file has all modalities, the second is compiled with ``--modalities text``. Everything runs in a home folder
of its own, which is removed afterwards.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

NANO = Path(__file__).parents[1] / "compiler" / "g3n_compiler" / "nano" / "heldout"
PORT = 9391
REVERSE, REVERSED = "Reverse: stone river house", "Reversed: house river stone"
AGE = {
    "type": "function",
    "function": {
        "name": "get_age",
        "description": "Gets the age of a person.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string", "description": "A name."}},
            "required": ["name"],
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("whole", type=Path, help="a .litertlm of nano with pictures and sound")
    parser.add_argument("text", type=Path, help="one of text alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="g3n-serve-") as home:
        environment = os.environ | {"HOME": home}
        files = {"whole": options.whole.resolve(), "text": options.text.resolve()}
        files["packed"] = repack(files["whole"], Path(home), environment)
        for name, file in files.items():
            run("import", str(file), name, env=environment)
        server = subprocess.Popen(
            [tool(), "serve", "--port", str(PORT)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for_server()
            report()
        finally:
            server.terminate()
            server.wait()


def tool() -> str:
    return str(Path(sys.executable).parent / "litert-lm")


def run(*words: str, env: dict[str, str]) -> None:
    subprocess.run([tool(), *words], env=env, check=True, capture_output=True)


def repack(file: Path, folder: Path, environment: dict[str, str]) -> Path:
    run("unpack", str(file), "--output-dir", str(folder / "parts"), env=environment)
    run("pack", str(folder / "parts"), "--output", str(folder / "packed.litertlm"), env=environment)
    packed = folder / "packed.litertlm"
    sys.stdout.write(f"unpack and pack: {file.stat().st_size:,} bytes become {packed.stat().st_size:,}\n\n")
    return packed


def wait_for_server() -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v1/models").close()
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("litert-lm serve does not answer")


def report() -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", max_retries=0, timeout=300)

    def said(model: str, content: Any, **settings: Any) -> str:
        messages = settings.pop("messages", None) or [{"role": "user", "content": content}]
        answer = client.chat.completions.create(model=model, messages=messages, temperature=0, **settings)
        return str(answer.choices[0].message.content).strip()

    def streamed() -> str:
        turns: Any = [{"role": "user", "content": REVERSE}]
        stream = client.chat.completions.create(model="whole", messages=turns, temperature=0, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream).strip()

    def with_tool() -> str:
        turns: list[Any] = [{"role": "user", "content": "How old is Paul?"}]
        first = client.chat.completions.create(model="text", messages=turns, tools=[AGE], temperature=0)  # type: ignore[list-item]
        message = first.choices[0].message
        if not message.tool_calls:
            return f"no call, but {message.content!r}"
        turns += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"age": 31}'}]
        last = client.chat.completions.create(model="text", messages=turns, tools=[AGE], temperature=0)  # type: ignore[list-item]
        call: Any = message.tool_calls[0]
        return f"{call.function.name}({call.function.arguments}) -> {last.choices[0].message.content}"

    def roles(*turns: tuple[str, str]) -> str:
        return said("whole", None, messages=[{"role": role, "content": text} for role, text in turns])

    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + encoded(NANO / "seven.png")}}
    sound = {"type": "input_audio", "input_audio": {"data": wav(NANO / "speech" / "05.ogg"), "format": "wav"}}
    clips = [NANO / "speech" / clip["file"] for clip in json.loads((NANO / "answers.json").read_text())["speech"]]
    longer = {"type": "input_audio", "input_audio": {"data": wav(*clips), "format": "wav"}}
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    asked = "Write as JSON: a person named Paul is 31 and lives in Rome."
    cases: list[tuple[str, Callable[[], str]]] = [
        ("chat", lambda: said("whole", REVERSE)),
        ("chat, the file packed again", lambda: said("packed", REVERSE)),
        ("chat, 512 tokens", lambda: said("whole,cpu,512", REVERSE)),
        ("streaming", streamed),
        ("picture", lambda: said("whole", [picture, {"type": "text", "text": "What digit is this?"}])),
        ("sound", lambda: said("whole", [sound, {"type": "text", "text": "Transcribe."}])),
        ("sound, the file packed again", lambda: said("packed", [sound, {"type": "text", "text": "Transcribe."}])),
        ("90 s of sound", lambda: said("whole", [longer, {"type": "text", "text": "Transcribe."}])),
        ("tool", with_tool),
        ("tool, a file with media", lambda: said("whole", "How old is Paul?", tools=[AGE])),
        ("JSON schema", lambda: said("whole", asked, response_format=schema)),
        ("two users' turns", lambda: roles(("user", "What is a dog?"), ("user", REVERSE))),
        ("an answer first", lambda: roles(("assistant", "Hello."), ("user", REVERSE))),
        ("developer", lambda: roles(("developer", "Answer in one word."), ("user", REVERSE))),
        ("a system's text later", lambda: roles(("user", "Hi"), ("system", "Be brief."), ("user", REVERSE))),
    ]
    sys.stdout.write("| request | answer |\n|---|---|\n")
    for name, ask in cases:
        try:
            answer = ask()
        except Exception as error:  # whatever the client makes of an answer
            answer = f"error: {str(error)[:150]}"
        sys.stdout.write(f"| {name} | {answer} |\n")
        sys.stdout.flush()


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def wav(*paths: Path, seconds: int = 90) -> str:
    """The sounds one after the other, half a second apart, up to ``seconds``."""
    import numpy as np
    import soundfile

    sounds = [soundfile.read(path, dtype="float32") for path in paths]
    rate = sounds[0][1]
    joined = np.concatenate([np.pad(samples, (0, rate // 2)) for samples, _ in sounds])
    out = io.BytesIO()
    soundfile.write(out, joined[: seconds * rate], rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(out.getvalue()).decode("ascii")


if __name__ == "__main__":
    main()
