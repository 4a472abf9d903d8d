"""Public keys that bundles are signed with: ECDSA over P-256, known by a fingerprint that people can compare.

The arithmetic is the ``cryptography`` package's, an optional extra that is imported when a signature is checked.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from g3n_runtime.errors import CannotCheckSignature, G3nError, KeyFileError
from g3n_runtime.reading import read_bytes

MAX_KEY_BYTES = 64 << 10
P256_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""What every P-256 key's SubjectPublicKeyInfo starts with (RFC 5480, uncompressed point); 64 bytes of point follow."""
P256_LENGTH = len(P256_PREFIX) + 64
GROUP = 8
MAKE_PUBLIC = "openssl pkey -in KEY -pubout -out KEY.pub"


@dataclass(frozen=True)
class PublicKey:
    """A P-256 key as its SubjectPublicKeyInfo in DER, the one encoding that is accepted."""

    der: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of :attr:`der` in hexadecimal, in groups that can be read aloud."""
        digest = hashlib.sha256(self.der).hexdigest()
        return "-".join(digest[i : i + GROUP] for i in range(0, len(digest), GROUP))

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` (ECDSA with SHA-256, DER) is this key's over ``message``.

        Raises:
            CannotCheckSignature: the ``cryptography`` package is missing.
        """
        try:
            from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
            from cryptography.hazmat.primitives.asymmetric import ec
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.serialization import load_der_public_key
        except ImportError:
            raise CannotCheckSignature("checking a signature needs more packages: pip install 'g3n[sign]'") from None
        try:
            key = load_der_public_key(self.der)
            if not isinstance(key, ec.EllipticCurvePublicKey):
                return False
            key.verify(signature, message, ec.ECDSA(SHA256()))
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):  # ValueError: a point that is not on the curve
            return False
        return True


def public_key(der: bytes, what: str, error: type[G3nError]) -> PublicKey:
    """The key that ``der`` encodes; ``error`` about ``what`` for any other kind of key or encoding."""
    if len(der) != P256_LENGTH or not der.startswith(P256_PREFIX):
        raise error(f"{what} is not a public P-256 key")
    return PublicKey(der)


def load_public_key(path: Path) -> PublicKey:
    """The public key in a PEM file.

    Raises:
        KeyFileError: not a regular file, or one that holds something else.
        CannotCheckSignature: the ``cryptography`` package is missing.
    """
    data = read_bytes(path, MAX_KEY_BYTES, KeyFileError)
    if b"PRIVATE KEY-----" in data:
        raise KeyFileError(f"{path} holds a private key, expected the public one: make it with {MAKE_PUBLIC}")
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
    except ImportError:
        raise CannotCheckSignature("checking a signature needs more packages: pip install 'g3n[sign]'") from None
    try:
        der = load_pem_public_key(data).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} is not a public key in PEM: make it with {MAKE_PUBLIC}") from None
    return public_key(der, str(path), KeyFileError)


def parse_fingerprint(text: str) -> str:
    """A fingerprint as a person may write it, in the form of :attr:`PublicKey.fingerprint`.

    Raises:
        KeyFileError: it is none.
    """
    digits = re.sub("[-: ]", "", text).lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise KeyFileError(f"{text[:80]!r} is not a fingerprint, expected 64 hexadecimal digits as g3n-push shows them")
    return "-".join(digits[i : i + GROUP] for i in range(0, len(digits), GROUP))
