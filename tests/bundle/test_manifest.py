"""A manifest is whole and agrees with itself, or opening the bundle ends in one line."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g3n_runtime.bundle import MANIFEST, Bundle, open_bundle, schema
from g3n_runtime.errors import BundleError, HashMismatch, UnsafePath
from g3n_runtime.manifest_check import fault
from tests.android.golden import DIRECTORY

WHOLE: dict[str, Any] = json.loads((DIRECTORY / "manifest_short.json").read_text(encoding="utf-8"))
Change = Callable[[dict[str, Any]], object]


def core(m: dict[str, Any]) -> dict[str, Any]:
    return dict(m["subgraphs"][0])


def elastic(m: dict[str, Any], **changes: Any) -> None:
    """Make it a manifest of two sizes."""
    peak, signatures = m["memory"]["litert"]["peak"], core(m)["signatures"]
    full = {
        "name": "full",
        "parameters": 1,
        "layers": list(range(10)),
        "ffn_dims": [512] * 10,
        "core_bytes": 1,
        "peak": peak,
        "least_device_ram": 1,
        "signatures": signatures,
        "delegation": None,
        "parity": None,
    }
    small = full | {"name": "half", "signatures": [f"half:{name}" for name in signatures]} | changes
    section = [16384, 32768]
    m["sizes"] = [full, small]
    m["elastic"] = dict.fromkeys(("decoder", "embedder", "per_layer_embedder", "tokenizer"), section)


def single(m: dict[str, Any], **changes: Any) -> None:
    """Make it a manifest with a single program."""
    m["files"].append({"path": "stock.pte", "role": "executorch_stock", "sha256": "0" * 64, "bytes": 1})
    m["single_pte"] = [
        {
            "form": "stock",
            "role": "executorch_stock",
            "methods": ["token_embedding", "text_decoder", "vision_encoder", "audio_encoder"],
            "chunk": 257,
            "image_size": 256,
            "samples": 481280,
        }
        | changes
    ]


def test_whole_manifests_pass() -> None:
    assert fault(WHOLE, schema()) is None
    for change in (elastic, single):
        changed = copy.deepcopy(WHOLE)
        change(changed)
        assert fault(changed, schema()) is None


CONTRADICTIONS: dict[str, tuple[Change, str]] = {
    "a role twice": (lambda m: m["files"][1].update(role="litertlm"), "role"),
    "a path twice": (lambda m: m["files"][1].update(path="model.litertlm"), "model.litertlm"),
    "twins but for case": (lambda m: m["files"][1].update(path="MODEL.LiteRTLM"), "case"),
    "twins but for form": (
        lambda m: (m["files"][0].update(path="\u00e9"), m["files"][1].update(path="e\u0301")),
        "form of letters",
    ),
    "the manifest itself": (lambda m: m["files"][1].update(path="Manifest.json"), "cannot be one"),
    "a path with a detour": (lambda m: m["files"][1].update(path="./model.pte"), "plain form"),
    "no file": (lambda m: m.update(files=[]), "files"),
    "no subgraph": (lambda m: m.update(subgraphs=[]), "subgraphs"),
    "a subgraph nowhere": (lambda m: m["subgraphs"][0].update(role="elsewhere"), "not listed"),
    "a subgraph of the other runtime": (lambda m: m["subgraphs"][0].update(runtime="executorch"), "executorch"),
    "a subgraph twice": (lambda m: m["subgraphs"].append(core(m)), "two subgraphs"),
    "a signature twice": (lambda m: m["subgraphs"][0].update(signatures=["decode"] * 2), "twice"),
    "no memory of a runtime": (lambda m: m["memory"].pop("litert"), "memory"),
    "more widths than layers": (lambda m: m["model"]["slice"]["ffn_dims"].append(1), "ffn_dims"),
    "prefill beyond the context": (lambda m: m.update(context=100), "prefill_lengths"),
    "no prefill": (lambda m: m.update(prefill_lengths=[]), "prefill_lengths"),
    "a context of nothing": (lambda m: m.update(context=0), "context"),
    "an endless context": (lambda m: m.update(context=10**9), "context"),
    "a fraction that is whole": (lambda m: m.update(context=4096.0), "context"),
    "a number without end": (lambda m: m["model"].update(parameters=10**400), "63"),
    "a layer's cache twice": (lambda m: m["kv"]["layers"].append(m["kv"]["layers"][0]), "kv"),
    "a vision tower that is not there": (lambda m: m.update(vision=None), "vision"),
    "an audio tower that is not listed": (lambda m: m["model"]["modalities"].remove("audio"), "audio"),
    "a sound encoder of an earlier version": (lambda m: m["audio"].update(stream=[0, 8]), "stream"),
    "a temperature below 0": (lambda m: m["sampler"].update(temperature=-1), "temperature"),
    "a probability over 1": (lambda m: m["sampler"].update(top_p=1.5), "top_p"),
    "a template without turns or a reason": (lambda m: m["template"].update(turns=None), "template"),
    "a template with turns and a reason": (lambda m: m["template"].update(no_turns="it has none"), "template"),
    "comparisons that failed": (lambda m: m["parity"]["checks"][0].update(passed=False), "parity"),
    "more operators than there are": (lambda m: m["subgraphs"][0]["delegation"].update(total_ops=1), "operators"),
    "sizes without sections": (lambda m: (elastic(m), m.pop("elastic")), "only one of"),
    "a single program twice": (lambda m: (single(m), m["single_pte"].append(m["single_pte"][0])), "two single"),
    "a single program of no file": (lambda m: (single(m), m["files"].pop()), "not listed"),
    "a single program of another role": (lambda m: single(m, role="executorch_rows"), "role"),
    "a single program without its tower": (lambda m: single(m, image_size=None), "vision"),
    "no single program": (lambda m: m.update(single_pte=[]), "single_pte"),
    "a size twice": (lambda m: elastic(m, name="full"), "two sizes"),
    "a size of other signatures": (lambda m: elastic(m, signatures=["decode"]), "signatures"),
    "a size of layers that are not there": (lambda m: elastic(m, layers=[11], ffn_dims=[1]), "layers"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions(name: str) -> None:
    change, match = CONTRADICTIONS[name]
    changed = copy.deepcopy(WHOLE)
    change(changed)
    found = fault(changed, schema())
    assert found is not None and match in found and len(found) < 600


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose files hold zeros; its manifest may be changed."""
    made = copy.deepcopy(WHOLE)
    for entry in made["files"]:
        with (tmp_path / entry["path"]).open("wb") as file:
            file.truncate(entry["bytes"])
    (tmp_path / MANIFEST).write_text(json.dumps(made), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: p.symlink_to("/dev/zero"), "device"),
        (os.mkfifo, "pipe"),
        (Path.mkdir, "folder"),
        (lambda p: p.symlink_to(p), "cannot be read"),
        (lambda p: p.write_bytes(b"\xff"), "UTF-8"),
        (lambda p: p.write_bytes(b"[]"), "expected an object"),
        (lambda p: p.write_bytes(b'{"a":' * 100_000), "JSON"),
        (lambda p: p.write_bytes(b'{"schema_version": ' + b"9" * 5000 + b"}"), "JSON"),
        (lambda p: p.write_bytes(b'{"schema_version": ' + b"9" * 4000 + b"}"), "update g3n"),
        (lambda p: p.write_bytes(b'{"context": Infinity}'), "Infinity"),
        (lambda p: (p.touch(), os.truncate(p, 1 << 30)), "bytes"),
    ],
)
def test_a_manifest_that_is_no_file_of_json(bundle: Path, make: Callable[[Path], object], match: str) -> None:
    (bundle / MANIFEST).unlink()
    make(bundle / MANIFEST)
    with pytest.raises(BundleError, match=match):
        open_bundle(bundle)


def test_files_that_are_no_files(bundle: Path) -> None:
    for make, error in ((os.mkfifo, BundleError), (Path.mkdir, BundleError), (lambda p: p.symlink_to(p), UnsafePath)):
        path = bundle / "model.pte"
        path.rmdir() if path.is_dir() else path.unlink()
        make(path)
        with pytest.raises(error):
            open_bundle(bundle, check_hashes=False)


def test_one_file_under_two_names(bundle: Path, edit_json: Callable[[Path, Change], None]) -> None:
    size = (bundle / "model.pte").stat().st_size
    edit_json(bundle / MANIFEST, lambda m: m["files"][2].update(bytes=size))
    (bundle / "model.ptd").unlink()
    (bundle / "model.ptd").hardlink_to(bundle / "model.pte")
    with pytest.raises(BundleError, match="another file of the bundle"):
        open_bundle(bundle, check_hashes=False)


def test_what_was_checked_is_held(bundle: Path) -> None:
    opened = open_bundle(bundle, check_hashes=False)
    held = opened.open_file("tokenizer_json")
    (bundle / "new").write_bytes(b"other")
    (bundle / "new").replace(bundle / "tokenizer.json")
    assert held.address.read_bytes() == held.read() == bytes(held.size)
    held.require_unchanged()
    with pytest.raises(HashMismatch, match="replaced"):
        opened.require_unchanged()


def test_another_process_gets_the_same_files_or_none(bundle: Path) -> None:
    opened = open_bundle(bundle, check_hashes=False)
    for entry in opened.manifest["files"]:
        opened.files[entry["path"]].trust(entry["sha256"])
    again = open_bundle(bundle, verified=opened.identities())
    assert again.open_file("litertlm").verified == opened.open_file("litertlm").verified
    (bundle / "model.ptd").touch()
    with pytest.raises(BundleError, match="since it was checked"):
        open_bundle(bundle, verified=opened.identities())


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    for name, child in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        found += places(child, (*path, name))
    return found


PLACES = places(WHOLE)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["../x", "/etc/passwd", "\x1b[2J", "[bold]", "manifest.json", "x" * 5000, "model.pte"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), st.just("delete") | st.just("copy") | VALUES), max_size=4))
def test_a_changed_manifest_gives_a_bundle_or_its_error(bundle: Path, changes: list[tuple[Any, Any]]) -> None:
    changed = copy.deepcopy(WHOLE)
    for path, value in changes:
        at = changed
        try:
            for step in path[:-1]:
                at = at[step]
            if value == "delete":
                del at[path[-1]]
            elif value == "copy":
                at.append(at[path[-1]])  # type: ignore[attr-defined]
            else:
                at[path[-1]] = value
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # an earlier change took the place away
    (bundle / MANIFEST).write_text(json.dumps(changed), encoding="utf-8", errors="surrogatepass")
    try:
        opened = open_bundle(bundle, check_hashes=False)
    except BundleError as error:
        assert len(str(error)) < 2000 and "\x1b" not in str(error)
    else:
        assert isinstance(opened, Bundle) and opened.runtimes
        for entry in opened.manifest["files"]:
            opened.open_file(entry["role"])
