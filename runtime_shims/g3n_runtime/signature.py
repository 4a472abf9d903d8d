"""Check who made a bundle: a signature over the manifest and every file of it, with keys only and no network.

``manifest.sig`` has the format of OpenSSF model signing 1.0: a Sigstore bundle that holds a DSSE envelope around an
in-toto statement, which lists every file with its SHA-256. Sources: the formats' own specifications, and what the
``model-signing`` library 1.1.1 writes and accepts.
"""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g3n_runtime.bundle import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, Bundle, inside
from g3n_runtime.errors import CannotCheckSignature, SignatureError, UnsafePath
from g3n_runtime.public_key import PublicKey, public_key
from g3n_runtime.reading import open_regular, parse_json, read_bytes, read_json_object
from g3n_runtime.terminal import printable_line

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MAX_SIGNATURE_BYTES = 1 << 20
READ_AT_ONCE = 1 << 20
MAX_NAME = 1024
AGAIN = "fetch the bundle again from who made it, or have it signed again"


@dataclass(frozen=True)
class Envelope:
    """What a signature file holds, not yet checked.

    ``key`` is the signer's, where the file carries it; ``signature`` is over :func:`preauthentication` of ``payload``.
    """

    payload: bytes
    signature: bytes
    key: PublicKey | None


def check_signature(bundle: Bundle, key: PublicKey | None = None) -> PublicKey:
    """The key that signed ``bundle``, whose files need not have been hashed yet.

    That the files have the hashes of the manifest is up to :func:`g3n_runtime.bundle.open_bundle`; that these hashes
    and the manifest are the signed ones is checked here.

    Args:
        key: the key that must have signed it. Without one, the key that the signature carries is taken: then the
            answer says only whose signature it is, and it is up to the caller to know that key.

    Raises:
        SignatureError: not signed, or the signature is broken, of another key or of another bundle.
        UnsafePath: the signature file is a link that leads out of the bundle.
        CannotCheckSignature: no ``key`` was given and the signature carries none, or a package is missing.
    """
    envelope = read_envelope(inside(bundle.directory, SIGNATURE))
    if key is not None and envelope.key is not None and envelope.key != key:
        raise SignatureError(
            f"{bundle.directory.name} was signed by the key {envelope.key.fingerprint}, expected {key.fingerprint}: "
            "check where both come from"
        )
    signer = key or envelope.key
    if signer is None:
        raise CannotCheckSignature(f"{SIGNATURE} does not carry its key: check it with g3n-verify --key")
    if not signer.verifies(envelope.signature, preauthentication(envelope.payload)):
        raise SignatureError(f"{SIGNATURE} is not a signature of the key {signer.fingerprint}: {AGAIN}")
    _compare(bundle, _statement(envelope.payload))
    return signer


def read_envelope(path: Path) -> Envelope:
    """The envelope in a signature file.

    Raises:
        SignatureError: there is no such file, or it is not of the format.
    """
    if not path.exists() and not path.is_symlink():
        raise SignatureError(
            f"{path.parent} is not signed (it has no {path.name}): g3n-compile --sign KEY signs a bundle"
        )
    tree = read_json_object(path, SignatureError, MAX_SIGNATURE_BYTES)
    _expect(tree, "mediaType", MEDIA_TYPE)
    envelope = _member(tree, "dsseEnvelope", dict)
    _expect(envelope, "payloadType", PAYLOAD_TYPE)
    signatures = _member(envelope, "signatures", list)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise SignatureError(f"{SIGNATURE} has {len(signatures)} signatures, expected one: {AGAIN}")
    identifier = _member(_member(tree, "verificationMaterial", dict), "publicKey", dict)
    key = None
    if "rawBytes" in identifier:
        key = public_key(_decode(identifier, "rawBytes"), f"the key in {SIGNATURE}", SignatureError)
    return Envelope(_decode(envelope, "payload"), _decode(signatures[0], "sig"), key)


def preauthentication(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of ``payload``, which names its type and length."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


@dataclass(frozen=True)
class _Statement:
    """Hashes of the signed files by their names, and what the bundle was called when it was signed."""

    name: str
    digests: dict[str, str]


def _statement(payload: bytes) -> _Statement:
    what = f"the statement in {SIGNATURE}"
    tree = parse_json(payload, what, SignatureError)
    if not isinstance(tree, dict):
        raise SignatureError(f"{what} is a JSON {type(tree).__name__}, expected an object")
    _expect(tree, "_type", STATEMENT_TYPE)
    _expect(tree, "predicateType", PREDICATE_TYPE)
    predicate = _member(tree, "predicate", dict)
    serialization = _member(predicate, "serialization", dict)
    _expect(serialization, "method", "files")
    _expect(serialization, "hash_type", "sha256")
    digests: dict[str, str] = {}
    for resource in _member(predicate, "resources", list):
        if not isinstance(resource, dict):
            raise SignatureError(f"{what} lists a {type(resource).__name__}, expected an object for each file")
        name = _member(resource, "name", str)
        _expect(resource, "algorithm", "sha256")
        if len(name) > MAX_NAME:
            raise SignatureError(f"{what} lists a name of {len(name)} characters, at most {MAX_NAME} are read")
        if name in digests:
            raise SignatureError(f"{what} lists {printable_line(name[:80])} twice")
        digests[name] = _member(resource, "digest", str)
    subjects = _member(tree, "subject", list)
    subject = subjects[0] if subjects and isinstance(subjects[0], dict) else {}
    return _Statement(_member(subject, "name", str), digests)


def _compare(bundle: Bundle, statement: _Statement) -> None:
    """Raise :class:`SignatureError` unless the manifest and the hashes that the bundle was opened with were signed."""
    data = read_bytes(bundle.directory / MANIFEST, MAX_MANIFEST_BYTES, SignatureError)
    if statement.digests.get(MANIFEST) != hashlib.sha256(data).hexdigest():
        raise SignatureError(
            f"{MANIFEST} is not the one that was signed, of the bundle {printable_line(statement.name[:80])}: it was "
            f"changed, or the signature is another bundle's; {AGAIN}"
        )
    if parse_json(data, MANIFEST, SignatureError) != bundle.manifest:
        raise SignatureError(f"{MANIFEST} was changed while the bundle was opened: try again")
    own = {entry["path"]: entry["sha256"] for entry in bundle.manifest["files"]}
    for path, digest in own.items():
        if statement.digests.get(path) != digest:
            raise SignatureError(f"{printable_line(path)} is not among the files that were signed: {AGAIN}")
    for name in statement.digests.keys() - own.keys() - {MANIFEST}:
        try:
            found = file_sha256(inside(bundle.directory, name), _Absent)
        except _Absent:
            continue  # a copy on a phone has no report
        except UnsafePath:
            raise SignatureError(
                f"{SIGNATURE} lists {printable_line(name[:80])}, which leads out of the bundle"
            ) from None
        if found != statement.digests[name]:
            raise SignatureError(f"{printable_line(name[:80])} was changed after the bundle was signed: {AGAIN}")


class _Absent(SignatureError):
    """A file is not there."""


def file_sha256(path: Path, missing: type[SignatureError] = SignatureError) -> str:
    """SHA-256 of a regular file in hexadecimal; :class:`SignatureError` for anything else, ``missing`` for nothing."""
    with open_regular(path, SignatureError, missing) as file:
        digest = hashlib.sha256()
        while block := file.read(READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def _member(tree: dict[str, Any], name: str, kind: type) -> Any:
    value = tree.get(name)
    if not isinstance(value, kind):
        found = "nothing" if name not in tree else f"a {type(value).__name__}"
        raise SignatureError(f"{SIGNATURE} has {found} as {name}, expected a {kind.__name__}: {AGAIN}")
    return value


def _expect(tree: dict[str, Any], name: str, value: str) -> None:
    if (found := _member(tree, name, str)) != value:
        raise SignatureError(f"{SIGNATURE} has the {name} {printable_line(found[:80])}, expected {value}: {AGAIN}")


def _decode(tree: dict[str, Any], name: str) -> bytes:
    try:
        return binascii.a2b_base64(_member(tree, name, str), strict_mode=True)
    except (binascii.Error, ValueError):
        raise SignatureError(f"{SIGNATURE} has a {name} that is not base64: {AGAIN}") from None
