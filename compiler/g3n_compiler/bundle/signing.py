"""Sign a bundle with a private key: this writes the file that :mod:`g3n_runtime.signature` checks.

The ``model-signing`` library cannot be installed beside the pinned toolchains: it needs ``typing-extensions`` 4.14.1 or
later (through ``sigstore-models``), and ``litert-torch`` 0.10.0 needs one below 4.13 (through ``xdsl``). So its format
is written here, with only the ``cryptography`` package; the library can verify the result.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g3n_runtime.bundle import SIGNATURE
from g3n_runtime.errors import CannotCheckSignature, KeyFileError
from g3n_runtime.public_key import MAX_KEY_BYTES, PublicKey, public_key
from g3n_runtime.reading import open_regular, read_bytes
from g3n_runtime.signature import (
    MEDIA_TYPE,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    file_sha256,
    preauthentication,
)

MAKE_KEY = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY"


@dataclass(frozen=True)
class SigningKey:
    """A private key for signing.

    Attributes:
        exposed: whether users other than its owner may read or change the file it came from.
    """

    public: PublicKey
    exposed: bool
    _private: Any

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256 in DER, deterministic (RFC 6979), so that no weak random source can reveal the key."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256

        return self._private.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True))


def load_signing_key(path: Path) -> SigningKey:
    """The private key in a PEM file.

    Raises:
        KeyFileError: it is not a regular file, or does not hold an unencrypted private P-256 key.
        CannotCheckSignature: the ``cryptography`` package is missing.
    """
    data = read_bytes(path, MAX_KEY_BYTES, KeyFileError)
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    except ImportError:
        raise CannotCheckSignature("signing needs more packages: pip install 'g3n[sign]'") from None
    if b"PUBLIC KEY-----" in data and b"PRIVATE KEY-----" not in data:
        raise KeyFileError(f"{path} holds a public key, but signing needs the private key")
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise KeyFileError(
            f"{path} is encrypted, and g3n asks for no password: decrypt it with openssl pkey -in {path.name} "
            "-out PLAIN, in a place that only you can read"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} is not a private key in PEM: make one with {MAKE_KEY}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__
        raise KeyFileError(f"{path} is a key of another kind ({kind}) than EC P-256: make one with {MAKE_KEY}")
    try:
        ec.ECDSA(SHA256(), deterministic_signing=True)
    except UnsupportedAlgorithm:  # built against an OpenSSL before 3.2
        raise CannotCheckSignature("this build of cryptography is too old: pip install 'g3n[sign]'") from None
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(public_key(der, str(path), KeyFileError), _is_exposed(path), key)


def _is_exposed(path: Path) -> bool:
    with open_regular(path, KeyFileError) as file:
        return bool(os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def sign_bundle(directory: Path, manifest: dict[str, Any], key: SigningKey) -> None:
    """Write the signature over the manifest in ``directory``, the files that it lists, and any other files there."""
    (directory / SIGNATURE).write_text(bundle_signature(directory, manifest, key), encoding="utf-8")


def bundle_signature(directory: Path, manifest: dict[str, Any], key: SigningKey) -> str:
    """The signature file of the bundle in ``directory``, whose files are known to be what ``manifest`` lists."""
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != SIGNATURE)
    others = {
        name: file_sha256(directory / name)
        for path in found
        if (name := str(path.relative_to(directory))) not in listed
    }
    return signature_text(manifest["name"], listed | others, key)


def signature_text(name: str, digests: dict[str, str], key: SigningKey) -> str:
    """The signature file for a bundle called ``name`` whose files have these SHA-256 digests."""
    payload = json.dumps(_statement(name, digests), indent=1).encode()
    signature = key.sign(preauthentication(payload))
    identifier = {"hint": hashlib.sha256(_pem(key.public)).hexdigest(), "rawBytes": _text(key.public.der)}
    bundle = {
        "mediaType": MEDIA_TYPE,
        # the library writes the hint and ignores rawBytes, which a verifier without the key file needs
        "verificationMaterial": {"publicKey": identifier, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _text(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": _text(signature), "keyid": ""}],
        },
    }
    return json.dumps(bundle, indent=1) + "\n"


def _statement(name: str, digests: dict[str, str]) -> dict[str, Any]:
    """The in-toto statement in the library's layout; the subject's digest is over all digests in order."""
    ordered = sorted(digests.items())
    total = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": total}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "resources": [{"name": n, "digest": d, "algorithm": "sha256"} for n, d in ordered],
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
        },
    }


def _pem(key: PublicKey) -> bytes:
    """The key as OpenSSL writes it, with 64 characters per line."""
    text = _text(key.der)
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""]).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
