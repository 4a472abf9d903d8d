"""What a manifest must say beyond its schema: its parts must agree with one another.

A schema says of each value by itself what it may be. Here is what two values say about the same thing.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import jsonschema

from g3n_runtime.litert.elastic_names import signature_of

MOST_NUMBER = 2**63 - 1
MOST_NAME = 4096
RUNTIME_OF_ROLE = {
    "litertlm": "litert",
    "executorch_model": "executorch",
    "executorch_tables": "executorch",
    "executorch_vision": "executorch",
    "executorch_audio": "executorch",
    "executorch_stock": "executorch",
    "executorch_rows": "executorch",
}
RESERVED = frozenset({"manifest.json", "manifest.sig", "report.html"})
"""Files of a bundle that its manifest cannot list."""

_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)
"""As the standard's, but 1.0 is no integer: it would be a float in Python, which cannot count."""


def fault(manifest: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    """The first thing that is wrong with ``manifest``, ``None`` if nothing is."""
    for error in _Validator(schema).iter_errors(manifest):
        where = "/".join(str(part)[:80] for part in error.absolute_path) or "the top"
        return f"does not follow the manifest schema at {where}: {error.message[:200]}"
    return next((f"contradicts itself: {found[:400]}" for found in _contradictions(manifest)), None)


def _contradictions(m: Mapping[str, Any]) -> Iterator[str]:
    yield from _unbounded(m)
    yield from _files(m)
    yield from _subgraphs(m)
    yield from _shape(m)
    yield from _towers(m)
    yield from _single(m)
    yield from _sizes(m)
    if (m["template"]["turns"] is None) != (m["template"]["no_turns"] is not None):
        yield "template has neither turns nor a reason for having none, or both"
    if m["parity"]["passed"] != all(check["passed"] for check in m["parity"]["checks"]):
        yield "parity/passed is not what its checks say"


def _unbounded(value: Any) -> Iterator[str]:
    """Integers that other readers cannot hold, and names without end; the depth was bounded when it was read."""
    if isinstance(value, Mapping):
        if long := next((name for name in value if len(name) > MOST_NAME), None):
            yield f"a name has {len(long)} characters, at most {MOST_NAME} are allowed"
        for child in value.values():
            yield from _unbounded(child)
    elif isinstance(value, list):
        for child in value:
            yield from _unbounded(child)
    elif isinstance(value, int) and abs(value) > MOST_NUMBER:
        yield f"a number has {value.bit_length()} bits, at most 63 are allowed"


def _files(m: Mapping[str, Any]) -> Iterator[str]:
    paths = [entry["path"] for entry in m["files"]]
    for path in paths:
        if path != PurePosixPath(path).as_posix():
            yield f"{path!r} is not the plain form of a path"
        if _folded(path) in RESERVED:
            yield f"{path!r} cannot be one of the files that it lists"
    if twins := _repeated(_folded(path) for path in paths):
        yield f"two files are called {twins!r}, or differ in the case or form of letters only"
    if role := _repeated(entry["role"] for entry in m["files"]):
        yield f"two files have the role {role!r}"


def _subgraphs(m: Mapping[str, Any]) -> Iterator[str]:
    files = {entry["role"]: entry for entry in m["files"]}
    runtimes = {part["runtime"] for part in m["subgraphs"]}
    if name := _repeated(f"{part['runtime']}: {part['name']}" for part in m["subgraphs"]):
        yield f"two subgraphs are called {name!r}"
    for part in m["subgraphs"]:
        role, runtime = part["role"], part["runtime"]
        if role not in files:
            yield f"the subgraph {part['name']!r} is in a file of role {role!r}, which is not listed"
        if RUNTIME_OF_ROLE.get(role, runtime) != runtime:
            yield f"the subgraph {part['name']!r} is for {runtime}, its file for {RUNTIME_OF_ROLE[role]}"
        if name := _repeated(part["signatures"]):
            yield f"the subgraph {part['name']!r} has the signature {name!r} twice"
    for role in files:
        if RUNTIME_OF_ROLE.get(role, next(iter(runtimes))) not in runtimes:
            yield f"there is a file of role {role!r}, and no subgraph for {RUNTIME_OF_ROLE[role]}"
    if set(m["memory"]) != runtimes:
        yield f"memory is that of {', '.join(sorted(m['memory']))}, the subgraphs are for {', '.join(sorted(runtimes))}"


def _shape(m: Mapping[str, Any]) -> Iterator[str]:
    made, context = m["model"]["slice"], m["context"]
    layers = made["num_layers"]
    for name in ("ffn_dims", "layer_types"):
        if len(made[name]) != layers:
            yield f"model/slice/{name} has {len(made[name])} items for {layers} layers"
    if made["num_kv_shared_layers"] > layers:
        yield f"{made['num_kv_shared_layers']} of {layers} layers share their caches"
    if ("kept" in made) != ("of" in made):
        yield "model/slice has only one of kept and of"
    if "kept" in made:
        yield from _rows("model/slice/kept", made["kept"], len(made["of"]))
    if "kept" in made and len(made["kept"]) != layers:
        yield f"model/slice/kept has {len(made['kept'])} items for {layers} layers"
    if max(m["prefill_lengths"]) > context or sorted(set(m["prefill_lengths"])) != m["prefill_lengths"]:
        yield f"prefill_lengths do not rise up to the context of {context} at most"
    yield from _rows("kv/layers", [entry["layer"] for entry in m["kv"]["layers"]], layers)
    for entry in m["kv"]["layers"]:
        if entry["length"] > context:
            yield f"layer {entry['layer']} keeps {entry['length']} positions of a context of {context}"
    for name, share in (("op_share", "delegated_ops"), ("flop_share", None)):
        for part in [*m["subgraphs"], *m.get("sizes", ())]:
            measured = part["delegation"]
            if measured and not 0 <= measured[name] <= 1:
                yield f"{name} of {part['name']!r} is {measured[name]}"
            if measured and share and measured[share] > measured["total_ops"]:
                yield f"{part['name']!r} has {measured[share]} of {measured['total_ops']} operators delegated"


def _towers(m: Mapping[str, Any]) -> Iterator[str]:
    modalities = m["model"]["modalities"]
    if "text" not in modalities or len(set(modalities)) != len(modalities):
        yield f"model/modalities are {', '.join(modalities)}"
    for tower in ("vision", "audio"):
        if (m.get(tower) is not None) != (tower in modalities):
            yield f"model/modalities and {tower} do not agree on whether there is a tower"


def _single(m: Mapping[str, Any]) -> Iterator[str]:
    listed = {entry["role"] for entry in m["files"]}
    programs = m.get("single_pte", ())
    if form := _repeated(program["form"] for program in programs):
        yield f"two single programs have the form {form!r}"
    for program in programs:
        form = program["form"]
        if program["role"] != f"executorch_{form}":
            yield f"the single program {form!r} has the role {program['role']!r}"
        if program["role"] not in listed:
            yield f"the single program {form!r} is in a file of role {program['role']!r}, which is not listed"
        for tower, field in (("vision", "image_size"), ("audio", "samples")):
            has = f"{tower}_encoder" in program["methods"]
            if has != (program[field] is not None) or (has and tower not in m["model"]["modalities"]):
                yield f"the single program {form!r} does not agree with itself or the model on whether it has {tower}"


def _sizes(m: Mapping[str, Any]) -> Iterator[str]:
    if ("sizes" in m) != ("elastic" in m):
        yield "it has only one of sizes and elastic"
        return
    if "sizes" not in m:
        return
    if name := _repeated(size["name"] for size in m["sizes"]):
        yield f"two sizes are called {name!r}"
    core = next((p for p in m["subgraphs"] if (p["runtime"], p["name"]) == ("litert", "core")), None)
    if core is None:
        yield "it has several sizes, and no core for litert"
        return
    for i, size in enumerate(m["sizes"]):
        if len(size["ffn_dims"]) != len(size["layers"]):
            yield f"the size {size['name']!r} has {len(size['layers'])} layers and {len(size['ffn_dims'])} FFN widths"
        yield from _rows(f"the layers of size {size['name']!r}", size["layers"], m["model"]["slice"]["num_layers"])
        wanted = [signature_of(size["name"] if i else None, name) for name in core["signatures"]]
        if size["signatures"] != wanted:
            yield f"the size {size['name']!r} has signatures other than the core's"
    for name, section in m["elastic"].items():
        yield from _section(f"elastic/{name}", section, m)


def _section(what: str, section: Sequence[int], m: Mapping[str, Any]) -> Iterator[str]:
    """Bytes of the ``.litertlm``; whoever opens the file sees whether it holds them."""
    begin, end = section
    if not begin < end or all(entry["role"] != "litertlm" for entry in m["files"]):
        yield f"{what} is at bytes {begin}..{end} of a .litertlm"


def _rows(what: str, rows: Sequence[int], count: int) -> Iterator[str]:
    if sorted(set(rows)) != list(rows) or (rows and rows[-1] >= count):
        yield f"{what} do not rise below {count}"


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
