"""``litert-lm serve`` over nano's bundle, asked as OpenAI's clients ask, and what ``litert-lm unpack`` and ``pack``
keep.

``benchmarks/serve.py`` asks with OpenAI's own client, and more.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile

from g3n_compiler.nano import heldout_senses_dir
from g3n_runtime.bundle import open_bundle
from tests.e2e.conftest import BIN
from tests.e2e.test_constraints import ASKED, REVERSE, schema_of

SECONDS = 60
REVERSED = "Reversed: house river stone"


class Server(NamedTuple):
    """A server that runs."""

    url: str

    def ask(self, content: Any, model: str = "whole", **fields: Any) -> str:
        """The answer to one user's turn."""
        with self._post(model, [{"role": "user", "content": content}], fields) as response:
            return str(json.load(response)["choices"][0]["message"]["content"]).strip()

    def pieces(self, content: str) -> list[str]:
        """The answer in the pieces that come."""
        found = []
        with self._post("whole", [{"role": "user", "content": content}], {"stream": True}) as response:
            for line in response:
                data = line.decode("utf-8").strip().removeprefix("data: ")
                if data and data != "[DONE]":
                    found.append(json.loads(data)["choices"][0]["delta"].get("content") or "")
        return [piece for piece in found if piece]

    def status(self, content: str, **fields: Any) -> int:
        """The HTTP status of a request that is refused."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.ask(content, **fields)
        return refused.value.code

    def _post(self, model: str, messages: list[dict[str, Any]], fields: dict[str, Any]) -> Any:
        body = json.dumps({"model": model, "messages": messages, "temperature": 0, **fields}).encode("utf-8")
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, headers)
        return urllib.request.urlopen(request, timeout=SECONDS)


def run(*words: str, home: Path) -> None:
    command, own = [str(BIN / "litert-lm"), *words], environment(home)
    result = subprocess.run(command, env=own, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert result.returncode == 0, result.stderr


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"HOME": str(home)}


@pytest.fixture(scope="module")
def server(nano_int4: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with nano's file as ``whole``, and as ``packed`` what unpacking and packing it makes."""
    home = tmp_path_factory.mktemp("home")
    file, packed = open_bundle(nano_int4).file("litertlm"), home / "packed.litertlm"
    run("unpack", str(file), "--output-dir", str(home / "parts"), home=home)
    run("pack", str(home / "parts"), "--output", str(packed), home=home)
    for path, name in ((file, "whole"), (packed, "packed")):
        run("import", str(path), name, home=home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [str(BIN / "litert-lm"), "serve", "--port", str(port)],
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(process, url)
        yield Server(url)
    finally:
        process.terminate()
        process.wait(SECONDS)


def wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/v1/models", timeout=SECONDS).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("litert-lm serve does not answer")


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def picture() -> list[dict[str, Any]]:
    url = "data:image/png;base64," + data(heldout_senses_dir() / "seven.png")
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What digit is this?"}]


def sound() -> list[dict[str, Any]]:
    samples, rate = soundfile.read(heldout_senses_dir() / "speech" / "05.ogg")
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", subtype="PCM_16")
    wav = {"data": base64.b64encode(out.getvalue()).decode("ascii"), "format": "wav"}
    return [{"type": "input_audio", "input_audio": wav}, {"type": "text", "text": "Transcribe."}]


@pytest.mark.parametrize("model", ["whole", "packed", "whole,cpu,512"])
def test_a_chat(server: Server, model: str) -> None:
    assert server.ask(REVERSE, model) == REVERSED


def test_a_stream(server: Server) -> None:
    pieces = server.pieces(REVERSE)
    assert len(pieces) > 3 and "".join(pieces).strip() == REVERSED


@pytest.mark.parametrize("model", ["whole", "packed"])
def test_a_picture_and_a_sound(server: Server, model: str) -> None:
    assert server.ask(picture(), model) == "7"
    assert server.ask(sound(), model) == "zero red"


def test_a_json_schema(server: Server) -> None:
    """Of itself nano begins with the name."""
    schema = {"name": "person", "schema": json.loads(schema_of("age", "name"))}
    wanted = {"type": "json_schema", "json_schema": schema}
    assert list(json.loads(server.ask(ASKED, response_format=wanted))) == ["age", "name"]


def test_an_expression(server: Server) -> None:
    wanted = {"type": "regex", "regex": "No (green fish|green ships) at all"}
    assert server.ask(REVERSE, response_format=wanted) == "No green fish at all"


def test_tools_are_refused_and_not_dropped(server: Server) -> None:
    """A file with pictures and sound takes none; the next chat is answered."""
    function = {"name": "get_age", "description": "An age.", "parameters": {"type": "object", "properties": {}}}
    assert server.status("How old is Paul?", tools=[{"type": "function", "function": function}]) == 500
    assert server.ask(REVERSE) == REVERSED
