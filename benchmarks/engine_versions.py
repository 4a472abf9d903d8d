"""Which versions of LiteRT-LM answer rightly from a bundle of nano: text, picture, sounds, tool, shorter context.

    python benchmarks/engine_versions.py exported/nano-host-int4 ENV/bin/python ...

Each ``ENV`` is a virtual environment with one version of the engine, made for it alone::

    python3.11 -m venv ENV && ENV/bin/pip install litert-lm-api==0.14.0

Versions before 0.18 also need Vulkan's loader (Debian's ``libvulkan1``), even on the CPU.

A version that loads the file and says something else is wrong without an error; ``min_runtime_version`` is for that.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

NANO = Path(__file__).parents[1] / "compiler" / "g3n_compiler" / "nano" / "heldout"
EXPECTED = {
    "text": "Reversed: house river stone",
    "512 tokens": "Reversed: house river stone",
    "picture": "7",
    "sound": "zero red",
    "90 s of sound": "Aquer of a man.",
    "tool": "The age is 31.",
}
CHILD = """
import base64, json, sys
import litert_lm
file, media, kind = sys.argv[1:]
media = json.loads(media)
cpu = litert_lm.Backend.CPU() if callable(litert_lm.Backend.CPU) else litert_lm.Backend.CPU
settings = {"cache_dir": ":nocache"}
if kind == "picture":
    settings["vision_backend"] = cpu
if "sound" in kind:
    settings["audio_backend"] = cpu
if kind == "512 tokens":
    settings["max_num_tokens"] = 512

class Age(litert_lm.Tool):
    def get_tool_description(self):
        name = {"type": "string", "description": "A name."}
        parameters = {"type": "object", "properties": {"name": name}, "required": ["name"]}
        about = {"name": "get_age", "description": "Gets the age of a person.", "parameters": parameters}
        return {"type": "function", "function": about}

    def execute(self, param):
        return {"age": 31} if dict(param) == {"name": "Paul"} else {"age": 0}

texts = {"picture": "What digit is this?", "tool": "How old is Paul?"}
default = "Transcribe." if "sound" in kind else "Reverse: stone river house"
text = {"type": "text", "text": texts.get(kind, default)}
content = [text] if kind not in media else [{"type": media[kind][0], "path": media[kind][1]}, text]
with litert_lm.Engine(file, **settings) as engine:
    extra = {"tools": [Age()]} if kind == "tool" else {}
    if kind == "90 s of sound":  # nano was not taught such a sound: any other sampler draws another answer
        extra["sampler_config"] = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=0.0, seed=0)
    with engine.create_conversation(**extra) as conversation:
        answer = conversation.send_message({"role": "user", "content": content})
        answer = answer.to_json() if hasattr(answer, "to_json") else answer
        print("ANSWER" + json.dumps("".join(part.get("text", "") for part in answer["content"])))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a .litertlm of nano")
    parser.add_argument("python", nargs="+", type=Path, help="the Python of an environment with one engine")
    parser.add_argument("--kinds", default=",".join(EXPECTED))
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    sys.stdout.write(f"| engine | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}\n")
    with tempfile.TemporaryDirectory() as folder:
        media = write_media(Path(folder))
        for python in options.python:
            found = [ask(python, options.file, media, kind) for kind in kinds]
            sys.stdout.write(f"| {version(python)} | {' | '.join(found)} |\n")
            sys.stdout.flush()


def write_media(folder: Path) -> dict[str, tuple[str, str]]:
    """The picture and the sound as the app's front end hands them over: type and path by kind."""
    import soundfile

    from g3n_runtime.chat import Attachments
    from g3n_runtime.litert.media import MediaFrontEnd
    from g3n_runtime.media.mel import RATE
    from nano_training.heldout_senses import long_sound

    found = {}
    soundfile.write(folder / "long.wav", long_sound(90), RATE, subtype="FLOAT")
    front = MediaFrontEnd(image_side=768, audio=True)
    given = {
        "picture": Attachments(images=(NANO / "seven.png",)),
        "sound": Attachments(audio=(NANO / "speech" / "05.ogg",)),
        "90 s of sound": Attachments(audio=(folder / "long.wav",)),
    }
    for kind, attachments in given.items():
        part = front.content("", attachments)[0]
        path = folder / kind
        path.write_bytes(base64.b64decode(part["blob"]))
        found[kind] = part["type"], str(path)
    return found


def version(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('litert-lm-api'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def ask(python: Path, file: Path, media: dict[str, tuple[str, str]], kind: str) -> str:
    command = [str(python), "-c", CHILD, str(file), json.dumps(media), kind]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        return "no answer in 300 s"
    answers = [line.removeprefix("ANSWER") for line in said.stdout.splitlines() if line.startswith("ANSWER")]
    if not answers:
        if "this file takes no tools" in said.stderr:
            return "refused, with the reason"
        return f"error: {(said.stderr.strip().splitlines() or ['no message'])[-1][:80]}"
    answer = str(json.loads(answers[-1])).strip()
    return "right" if answer == EXPECTED[kind] else f"wrong: {answer[:40]!r}"


if __name__ == "__main__":
    main()
