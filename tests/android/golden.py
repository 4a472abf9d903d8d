"""Golden vectors for the app's JVM tests, written by the Python side: what it accepts, renders, encodes and looks up.

``python -m tests.android.golden BUNDLE`` rewrites them, taking the manifest from a bundle of nano.
"""

from __future__ import annotations

import base64
import copy
import json
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
from tokenizers import Tokenizer

from g3n_compiler.checkpoint.turns import derive_turns
from g3n_compiler.errors import TokenizerError
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.bundle import inside, open_bundle, schema
from g3n_runtime.errors import BundleError
from g3n_runtime.executorch.model import MappedTable
from g3n_runtime.prompt import ChatTemplate
from tests.android.signed import signed_vectors

DIRECTORY = Path(__file__).parents[2] / "android_app" / "core" / "src" / "test" / "resources" / "golden"
BOS = "<bos>"
HUGE = 5000
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{{ '[' + m['role'] + ']' + (m['content'] | trim) + '[/]' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

CONVERSATIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "What is a river?"),),
    (("user", "  spaces \n around\t "), ("assistant", " an answer "), ("user", "and more?")),
    (("system", "Answer in one word."), ("user", "Is water wet?")),
    (
        ("system", " kept as it is "),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
        ("user", "e"),
    ),
    (("user", "Ünïcödé, 漢字, 👍🏽 and \u00a0 a hard space\u2003"),),
    (("user", "braces {prompt} {{ not }} rendered"),),
)
TEXTS = (
    "What is a river?",
    "",
    " ",
    "   three spaces   ",
    "line\nbreaks\n\n\tand tabs",
    "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n",
    "<start_of_turn>user\n<start_of_turn",
    "<unused0><unused1>x<bos>y",
    "Ünïcödé 漢字 👍🏽 \U0001f469\u200d\U0001f680",
    "\u0000\u0001\u007f\u0080",
    "▁already▁marked ▁",
    "In the beginning God created the heaven and the earth. " * 8,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "3.14159 + 2 = ?  (x_y) [z] {w} \"quoted\" 'single' \\ back",
    "antidisestablishmentarianism floccinaucinihilipilification",
    "\r\nwindows\r\n",
)
PATHS = (
    "model.pte",
    "a/b.pte",
    "./a",
    "a/./b",
    "",
    ".",
    "..",
    "a/../b",
    "../x",
    "/etc/passwd",
    "a\\b",
    "a\0b",
    "a//b",
    "...",
)


def manifest_vectors(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Changes to ``manifest``, one at a time, and whether the result is still valid."""
    validator = jsonschema.Draft202012Validator(schema())
    out = []
    for path, operation, value in _mutations(manifest):
        changed = copy.deepcopy(manifest)
        _apply(changed, path, operation, value)
        out.append({"path": path, "op": operation, "value": value, "valid": validator.is_valid(changed)})
    return out


def _mutations(manifest: dict[str, Any]) -> Iterator[tuple[list[str | int], str, Any]]:
    for path, value in _walk(manifest, []):
        if path:
            yield path, "delete", None
            yield path, "set", None
            yield path, "set", "text" if not isinstance(value, str) else 7
            yield path, "set", -1
            yield path, "set", 1.5
            yield path, "set", True
            yield path, "repeat", HUGE
        if isinstance(value, dict):
            yield [*path, "unknown"], "set", 0


def _walk(value: Any, path: list[str | int]) -> Iterator[tuple[list[str | int], Any]]:
    """Every object, and of every list the first item: the others follow the same schema."""
    yield path, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk(inner, [*path, name])
    elif isinstance(value, list) and value:
        yield from _walk(value[0], [*path, 0])


def _apply(manifest: Any, path: list[str | int], operation: str, value: Any) -> None:
    at = manifest
    for step in path[:-1]:
        at = at[step]
    if operation == "delete":
        del at[path[-1]]
    else:
        at[path[-1]] = "x" * value if operation == "repeat" else value


def shortened(manifest: dict[str, Any]) -> dict[str, Any]:
    """``manifest`` without most of what repeats: comparisons, dead tensors, layers."""
    out = copy.deepcopy(manifest)
    out["parity"]["checks"] = out["parity"]["checks"][:1]
    dead = out["provenance"]["dead_tensors"]
    out["provenance"]["dead_tensors"] = dict(list(dead.items())[:1])
    for subgraph in out["subgraphs"]:
        if subgraph["delegation"]:
            subgraph["delegation"]["fallbacks"] = dict(list(subgraph["delegation"]["fallbacks"].items())[:1])
    return out


def path_vectors() -> list[dict[str, Any]]:
    """Paths a manifest might name, and whether they stay in the bundle."""
    out = []
    with tempfile.TemporaryDirectory() as folder:
        for path in PATHS:
            try:
                inside(Path(folder), path)
                out.append({"path": path, "safe": True})
            except BundleError:
                out.append({"path": path, "safe": False})
    return out


def conversation_vectors() -> list[dict[str, Any]]:
    """Chat templates as the app gets them, and what the Jinja templates make of conversations, without bos."""
    out = []
    own = (checkpoint_dir() / "chat_template.jinja").read_text(encoding="utf-8")
    for source in (own, CHATML, NO_SYSTEM):
        template = ChatTemplate(source, {"bos_token": BOS})
        cases = []
        for turns in CONVERSATIONS:
            messages = [{"role": role, "content": text} for role, text in turns]
            try:
                prompt: str | None = template.render(messages, TokenizerError).removeprefix(BOS)
            except TokenizerError:
                prompt = None
            cases.append({"turns": messages, "prompt": prompt})
        out.append({"template": derive_turns(template, ()).as_json(), "cases": cases})
    return out


def token_vectors() -> list[dict[str, Any]]:
    """Texts and their ids by the ``tokenizers`` library."""
    tokenizer = Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))
    texts = [*TEXTS, *(case["prompt"] for case in conversation_vectors()[0]["cases"])]
    return [{"text": text, "ids": list(tokenizer.encode(text, add_special_tokens=False).ids)} for text in texts]


def table_vectors() -> list[dict[str, Any]]:
    """Small tables in each format, as bytes of a file, and the rows that the Python side reads from them."""
    out = []
    rows, width, scales_offset = 3, 8, 64
    for bits, values in ((4, bytes(range(0, 240, 20))), (8, bytes(range(0, 240, 10))), (32, _floats(rows * width))):
        data = (values if bits == 32 else values.ljust(scales_offset, b"\0")) + struct.pack("<3f", 0.5, 0.25, 2.0)
        layout = [rows, width, bits, 0, scales_offset]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table"
            path.write_bytes(data)
            read = MappedTable(path, layout).look_up(_ids())
        out.append(
            {"layout": layout, "data": base64.b64encode(data).decode(), "ids": _ids().tolist(), "rows": read.tolist()}
        )
    return out


def _ids() -> Any:
    import numpy as np

    return np.array([2, 0, 1, 3, -1])


def _floats(count: int) -> bytes:
    return struct.pack(f"<{count}f", *(i / 4 - 2 for i in range(count)))


def plainly_named(manifest: dict[str, Any]) -> dict[str, Any]:
    """``manifest`` with the names that the tests' small files have, whatever the checkpoint was called."""
    names = {
        "litertlm": "model.litertlm",
        "executorch_model": "model.pte",
        "executorch_tables": "model.ptd",
        "executorch_vision": "vision.pte",
        "executorch_audio": "audio.pte",
    }
    renamed = copy.deepcopy(manifest)
    for entry in renamed["files"]:
        entry["path"] = names.get(entry["role"], entry["path"])
    return renamed


def vectors(manifest: dict[str, Any]) -> dict[str, Any]:
    """Every golden file's content by its name."""
    short = shortened(manifest)
    return {
        "manifest.json": manifest,
        "manifest_short.json": short,
        "manifest_mutations.json": manifest_vectors(short),
        "paths.json": path_vectors(),
        "conversations.json": conversation_vectors(),
        "tokens.json": token_vectors(),
        "tables.json": table_vectors(),
        "signatures.json": signed_vectors(short),
    }


def encode(content: Any) -> str:
    """One item of a list a line, so that a change shows up where it is."""
    if isinstance(content, list):
        return "[\n" + ",\n".join(json.dumps(item, ensure_ascii=True) for item in content) + "\n]\n"
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def main(bundle: Path) -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, content in vectors(plainly_named(open_bundle(bundle).manifest)).items():
        (DIRECTORY / name).write_text(encode(content), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
