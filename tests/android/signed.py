"""A small signed bundle, and what a hostile hand can do to its signature: vectors for both sides that check one."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from g3n_compiler.bundle.signing import SigningKey, signature_text
from g3n_runtime.public_key import PublicKey
from g3n_runtime.signature import preauthentication

CONTENTS = {
    "model.litertlm": "litert",
    "model.pte": "program",
    "model.ptd": "tables",
    "tokenizer.json": "{}",
    "vision.pte": "vision encoder",
    "audio.pte": "audio encoder",
}


def open_key(number: int) -> SigningKey:
    """A key for tests alone: everybody knows its number."""
    private = ec.derive_private_key(number, ec.SECP256R1())
    der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(PublicKey(der), False, private)


KEY, OTHER_KEY = open_key(20_000), open_key(30_000)


def shrink(manifest: dict[str, Any], contents: dict[str, bytes]) -> None:
    """Let ``manifest`` be that of a bundle whose files have these few bytes, without contradicting itself."""
    for entry in manifest["files"]:
        data = contents[entry["path"]]
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for part in manifest["subgraphs"]:
        part["bytes"] = 0


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def signed_vectors(short_manifest: dict[str, Any]) -> dict[str, Any]:
    """Files, manifest and signature of a bundle, and changed signatures with what is to be said of each.

    ``verdict`` is ``signed``, ``refused``, or ``unchecked`` where the key is not there.
    """
    manifest = copy.deepcopy(short_manifest)
    shrink(manifest, {path: content.encode() for path, content in CONTENTS.items()})
    text = json.dumps(manifest, indent=1)
    digests = {path: digest(content) for path, content in CONTENTS.items()} | {"manifest.json": digest(text)}
    signature = signature_text(manifest["name"], digests, KEY)
    cases = [
        {"what": what, "signature": changed, "verdict": verdict}
        for what, changed, verdict in _cases(json.loads(signature), manifest["name"], digests)
    ]
    return {
        "fingerprint": KEY.public.fingerprint,
        "files": CONTENTS,
        "manifest": text,
        "signature": signature,
        "cases": cases,
    }


def _cases(tree: dict[str, Any], name: str, digests: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    whole = json.dumps(tree)
    yield "on one line", whole, "signed"
    without_one = {path: d for path, d in digests.items() if path != "model.pte"}
    another = digests | {"manifest.json": "0" * 64}
    swapped = digests | {"model.pte": digest("another program")}
    more = digests | {"notes.txt": digest("not there")}
    yield "a file that is not in the folder", signature_text(name, more, KEY), "signed"
    yield "another key that the file carries", signature_text(name, digests, OTHER_KEY), "signed"
    yield "another bundle's", signature_text(name, another, KEY), "refused"
    yield "a file is not signed", signature_text(name, without_one, KEY), "refused"
    yield "a file was signed with other bytes", signature_text(name, swapped, KEY), "refused"
    yield "nothing is signed", signature_text(name, {}, KEY), "refused"
    yield "another key's name on it", _edited(tree, _carry(OTHER_KEY.public.der)), "refused"
    for what, der in _bad_keys():
        yield what, _edited(tree, _carry(der)), "refused"
    yield "no key in it", _edited(tree, lambda t: t["verificationMaterial"]["publicKey"].pop("rawBytes")), "unchecked"
    for path in _paths(tree):
        if path[0] != "mediaType" and "keyid" not in path and "hint" not in path and "tlogEntries" not in path:
            for value in (None, 7, [], "text"):
                yield f"{'/'.join(map(str, path))} = {value!r}", _edited(tree, _setter(path, value)), "refused"
    for what, change in _statements():
        payload = json.loads(base64.b64decode(tree["dsseEnvelope"]["payload"]))
        change(payload)
        yield what, _resigned(tree, json.dumps(payload).encode()), "refused"
    yield "a payload that is no JSON", _resigned(tree, b"\xff\x00{"), "refused"
    encoded = tree["dsseEnvelope"]["payload"]
    for what, text in (
        ("a line feed in it", f"{encoded[:8]}\n{encoded[8:]}"),
        ("a sign of no alphabet in it", f"{encoded[:8]}*{encoded[8:]}"),
        ("a sign of another alphabet in it", f"-{encoded[1:]}"),
        ("a letter beyond ASCII in it", f"\u00e9{encoded[1:]}"),
        ("an end too much", f"{encoded}="),
        ("a whole end too much", f"{encoded}===="),
        ("an end in the middle", f"{encoded[:8]}===={encoded[8:]}"),
        ("a letter too few", encoded[1:]),
    ):
        yield f"base64 with {what}", _edited(tree, _setter(("dsseEnvelope", "payload"), text)), "refused"
    yield "a payload that is a list", _resigned(tree, b"[]"), "refused"
    yield (
        "two signatures",
        _edited(tree, lambda t: t["dsseEnvelope"].update(signatures=tree["dsseEnvelope"]["signatures"] * 2)),
        "refused",
    )
    yield "another medium", whole.replace("bundle.v0.3", "bundle.v0.9"), "refused"
    yield "signed without the payload's type", _edited(tree, _signed_bare), "refused"
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        yield f"the first {length} characters", whole[:length], "refused"
    yield "a list", "[]", "refused"
    yield "deep", "[" * 5000, "refused"
    yield "an integer of many digits", whole.replace('"keyid": ""', f'"keyid": {"9" * 5000}'), "refused"


def _bad_keys() -> Iterator[tuple[str, bytes]]:
    der = KEY.public.der
    yield "a key of no bytes", b""
    yield "half a key", der[:50]
    yield "a key and a byte", der + b"\0"
    yield "a point that is not on the curve", der[:-1] + bytes([der[-1] ^ 1])
    other = ec.derive_private_key(20_000, ec.SECP384R1()).public_key()
    yield "a key of another curve", other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _statements() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    """Statements that the key signs, and that say something else than the files' hashes."""
    yield "another statement", lambda s: s.update(_type="https://in-toto.io/Statement/v9")
    yield "another predicate", lambda s: s.update(predicateType="https://example.com/other")
    yield "hashes of parts of files", lambda s: s["predicate"]["serialization"].update(method="shards")
    yield "another hash for all", lambda s: s["predicate"]["serialization"].update(hash_type="blake3")
    yield "another hash for one", lambda s: s["predicate"]["resources"][0].update(algorithm="blake3")
    yield "a file twice", lambda s: s["predicate"]["resources"].append(dict(s["predicate"]["resources"][0]))
    yield "a file that is a text", lambda s: s["predicate"]["resources"].append("model.pte")
    yield "no files", lambda s: s["predicate"].pop("resources")
    yield "no predicate", lambda s: s.pop("predicate")


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in members:
        yield from _paths(inner, (*path, name))


def _edited(tree: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> str:
    changed = copy.deepcopy(tree)
    change(changed)
    return json.dumps(changed)


def _setter(path: tuple[str | int, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: Any) -> None:
        for step in path[:-1]:
            tree = tree[step]
        tree[path[-1]] = value

    return change


def _carry(der: bytes) -> Callable[[dict[str, Any]], Any]:
    return lambda t: t["verificationMaterial"]["publicKey"].update(rawBytes=base64.b64encode(der).decode())


def _signed_bare(tree: dict[str, Any]) -> None:
    payload = base64.b64decode(tree["dsseEnvelope"]["payload"])
    tree["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(KEY.sign(payload)).decode()


def _resigned(tree: dict[str, Any], payload: bytes) -> str:
    def change(t: dict[str, Any]) -> None:
        t["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        t["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(KEY.sign(preauthentication(payload))).decode()

    return _edited(tree, change)
