"""Who made a bundle: keys that can be used, signatures that hold, and each way in which one does not."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g3n_compiler.bundle.signing import load_signing_key, sign_bundle
from g3n_compiler.cli.common import without_option
from g3n_compiler.cli.compile import main as compile_main
from g3n_compiler.cli.verify import main as verify_main
from g3n_runtime.accepted_keys import AcceptedKeys, accepted_keys_file
from g3n_runtime.bundle import MANIFEST, SIGNATURE, Bundle, open_bundle
from g3n_runtime.errors import BundleError, CannotCheckSignature, G3nError, KeyFileError, SignatureError, UnsafePath
from g3n_runtime.public_key import load_public_key, parse_fingerprint
from g3n_runtime.signature import check_signature, preauthentication
from tests.android.golden import DIRECTORY
from tests.android.signed import KEY, signed_vectors
from tests.fuzz.mutate_json import edited_json

VECTORS = signed_vectors(json.loads((DIRECTORY / "manifest_short.json").read_text(encoding="utf-8")))
BY_LIBRARY = json.loads((Path(__file__).parent / "model_signing.json").read_text(encoding="utf-8"))


class Keys:
    """A pair of key files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.private, self.public = folder / name, folder / f"{name}.pub"
        key = ec.generate_private_key(ec.SECP256R1())
        self.private.touch(mode=0o600)
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "mine")


def make_bundle(folder: Path, keys: Keys, **changes: Any) -> Path:
    """A signed bundle of the vectors' files."""
    folder.mkdir()
    for name, text in VECTORS["files"].items():
        (folder / name).write_text(text)
    (folder / "report.html").write_text("a report")
    manifest = json.loads(VECTORS["manifest"]) | changes
    (folder / MANIFEST).write_text(json.dumps(manifest))
    sign_bundle(folder, manifest, load_signing_key(keys.private))
    return folder


@pytest.fixture
def bundle(tmp_path: Path, keys: Keys) -> Path:
    return make_bundle(tmp_path / "bundle", keys)


def verify(bundle: Path, key: Path) -> Result:
    return CliRunner().invoke(verify_main, [str(bundle), "--key", str(key), "--signature-only"])


def expect(result: Result, error: type[G3nError], *words: str) -> None:
    assert result.exit_code == error.exit_code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output, result.output


def test_a_signed_bundle_is_verified_by_its_key(bundle: Path, keys: Keys) -> None:
    result = verify(bundle, keys.public)
    assert result.exit_code == 0, result.output
    assert result.output == f"signed by: {load_public_key(keys.public).fingerprint}\n"


def test_the_fingerprint_is_what_openssl_says(keys: Keys) -> None:
    command = ["openssl", "pkey", "-pubin", "-in", str(keys.public), "-outform", "DER"]
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    der = subprocess.run(command, capture_output=True, check=True).stdout
    assert load_public_key(keys.public).fingerprint.replace("-", "") == hashlib.sha256(der).hexdigest()


def test_signing_again_gives_the_same_bytes(bundle: Path, keys: Keys) -> None:
    before = (bundle / SIGNATURE).read_bytes()
    sign_bundle(bundle, open_bundle(bundle).manifest, load_signing_key(keys.private))
    assert (bundle / SIGNATURE).read_bytes() == before


def swap_file_and_manifest(bundle: Path) -> None:
    (bundle / "model.pte").write_text("another")
    manifest = json.loads((bundle / MANIFEST).read_text())
    entry = next(e for e in manifest["files"] if e["path"] == "model.pte")
    entry["sha256"] = hashlib.sha256(b"another").hexdigest()
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def link_out(bundle: Path) -> None:
    (bundle / SIGNATURE).rename(bundle.parent / "elsewhere")
    (bundle / SIGNATURE).symlink_to(bundle.parent / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        pytest.param(lambda b: (b / SIGNATURE).unlink(), SignatureError, "is not signed", id="no signature"),
        pytest.param(lambda b: (b / "model.pte").write_text("progrbm"), SignatureError, "model.pte", id="a file"),
        pytest.param(swap_file_and_manifest, SignatureError, "not the one that was signed", id="file and manifest"),
        pytest.param(
            lambda b: (b / MANIFEST).write_text((b / MANIFEST).read_text() + " "),
            SignatureError, "not the one that was signed", id="a space in the manifest",
        ),
        pytest.param(lambda b: (b / "report.html").write_text("x"), SignatureError, "report.html", id="the report"),
        pytest.param(lambda b: (b / "model.pte").unlink(), BundleError, "is missing", id="a missing file"),
        pytest.param(lambda b: (b / SIGNATURE).write_text(""), SignatureError, "not JSON", id="an empty signature"),
        pytest.param(lambda b: (b / SIGNATURE).write_bytes(b"\xff"), SignatureError, "UTF-8", id="no text"),
        pytest.param(
            lambda b: (b / SIGNATURE).write_bytes(b" " * (2 << 20)), SignatureError, "at most", id="a large signature"
        ),
        pytest.param(
            lambda b: ((b / SIGNATURE).unlink(), os.mkfifo(b / SIGNATURE)), SignatureError, "pipe", id="a pipe"
        ),
        pytest.param(
            lambda b: ((b / SIGNATURE).unlink(), (b / SIGNATURE).mkdir()), SignatureError, "folder", id="a folder"
        ),
        pytest.param(link_out, UnsafePath, "is a link", id="a link"),
    ],
)  # fmt: skip
def test_what_was_not_signed_is_told(bundle: Path, keys: Keys, spoil: Any, error: type, words: str) -> None:
    spoil(bundle)
    expect(verify(bundle, keys.public), error, words)


def test_another_key_and_another_bundle_are_told(bundle: Path, keys: Keys, tmp_path: Path) -> None:
    other = Keys(tmp_path, "other")
    fingerprints = [load_public_key(k.public).fingerprint for k in (keys, other)]
    expect(verify(bundle, other.public), SignatureError, *fingerprints)
    second = make_bundle(tmp_path / "second", keys, name="second")
    shutil.copy(second / SIGNATURE, bundle / SIGNATURE)
    expect(verify(bundle, keys.public), SignatureError, "another bundle's")


def test_a_signature_that_names_our_key_must_be_of_it(bundle: Path, keys: Keys, tmp_path: Path) -> None:
    forged = make_bundle(tmp_path / "forged", Keys(tmp_path, "other"))
    tree, own = (json.loads((b / SIGNATURE).read_text()) for b in (forged, bundle))
    tree["verificationMaterial"] = own["verificationMaterial"]
    (forged / SIGNATURE).write_text(json.dumps(tree))
    expect(verify(forged, keys.public), SignatureError, "not a signature of the key")


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["what"])
def test_a_changed_signature_is_refused(case: dict[str, str], tmp_path: Path) -> None:
    for name, text in VECTORS["files"].items():
        (tmp_path / name).write_text(text)
    (tmp_path / MANIFEST).write_text(VECTORS["manifest"])
    (tmp_path / SIGNATURE).write_text(case["signature"])
    expected: Any = {"refused": SignatureError, "unchecked": CannotCheckSignature}.get(case["verdict"])
    if expected is None:
        check_signature(Bundle(tmp_path, json.loads(VECTORS["manifest"])))
        return
    with pytest.raises(expected):
        check_signature(Bundle(tmp_path, json.loads(VECTORS["manifest"])))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_signature_and_any_statement_is_verified_or_refused(bundle: Path, data: st.DataObject) -> None:
    whole = json.loads((bundle / SIGNATURE).read_text())
    if data.draw(st.booleans()):
        text = data.draw(edited_json([whole]))
    else:  # signed by its key: the statement is then hostile in itself
        text = resigned(whole, data.draw(edited_json([statement(whole)])))
    (bundle / SIGNATURE).write_bytes(text)
    try:
        check_signature(open_bundle(bundle))
    except (SignatureError, CannotCheckSignature) as error:
        assert len(str(error)) < 1000
    finally:
        (bundle / SIGNATURE).write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../key", "/etc/passwd", "a\0b", "a" * 5000, "a/" * 3000, "model.pte/x", "sub"]
)
def test_names_that_a_hostile_statement_lists(name: str, bundle: Path) -> None:
    (bundle / "sub").mkdir()
    whole = json.loads((bundle / SIGNATURE).read_text())
    tree = statement(whole)
    tree["predicate"]["resources"].append({"name": name, "digest": "0" * 64, "algorithm": "sha256"})
    (bundle / SIGNATURE).write_bytes(resigned(whole, json.dumps(tree).encode()))
    if name == "model.pte/x":  # there is no such file, and none is needed
        assert check_signature(open_bundle(bundle)) == KEY.public
        return
    with pytest.raises(SignatureError):
        check_signature(open_bundle(bundle))


def resigned(signature: dict[str, Any], payload: bytes) -> bytes:
    """The signature of :data:`KEY` over another payload."""
    changed = json.loads(json.dumps(signature))
    changed["verificationMaterial"]["publicKey"]["rawBytes"] = base64.b64encode(KEY.public.der).decode()
    changed["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    value = base64.b64encode(KEY.sign(preauthentication(payload))).decode()
    changed["dsseEnvelope"]["signatures"][0]["sig"] = value
    return json.dumps(changed).encode()


@pytest.fixture
def by_library(tmp_path: Path) -> Path:
    """A folder that the library signed, and its public key beside it."""
    for name, text in BY_LIBRARY["files"].items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "library.pub").write_text(BY_LIBRARY["public_key"])
    return tmp_path / "library"


def test_what_the_library_signed_is_verified(by_library: Path) -> None:
    opened = Bundle(by_library, json.loads((by_library / MANIFEST).read_text()))
    key = load_public_key(by_library.with_suffix(".pub"))
    assert check_signature(opened, key) == key
    with pytest.raises(CannotCheckSignature, match="--key"):
        check_signature(opened)
    (by_library / "sub" / "t.json").write_text("changed")
    with pytest.raises(SignatureError, match="sub/t"):
        check_signature(opened, key)


def test_we_write_what_the_library_writes(by_library: Path, keys: Keys) -> None:
    theirs = json.loads((by_library / SIGNATURE).read_text())
    sign_bundle(by_library, json.loads((by_library / MANIFEST).read_text()), load_signing_key(keys.private))
    ours = json.loads((by_library / SIGNATURE).read_text())
    assert shape(theirs) == shape(ours) - {"verificationMaterial/publicKey/rawBytes"}
    assert statement(theirs)["predicate"]["resources"] == statement(ours)["predicate"]["resources"]
    assert statement(theirs)["subject"][0]["digest"] == statement(ours)["subject"][0]["digest"]
    assert shape(statement(theirs)) == shape(statement(ours))


def shape(value: Any, path: str = "") -> set[str]:
    """Names of all members; of a list only the first item's."""
    if isinstance(value, list):
        value = {"0": value[0]} if value and isinstance(value[0], dict) else {}
    if not isinstance(value, dict):
        return {path}
    return {path} | {inner for name, v in value.items() for inner in shape(v, f"{path}/{name}".lstrip("/"))}


def statement(signature: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))


def write_key(path: Path, what: str, keys: Keys) -> Path:
    p256 = ec.generate_private_key(ec.SECP256R1())
    private = (Encoding.PEM, PrivateFormat.PKCS8)
    path.touch(mode=0o600)
    match what:
        case "encrypted":
            path.write_bytes(p256.private_bytes(*private, BestAvailableEncryption(b"secret")))
        case "another curve":
            path.write_bytes(ec.generate_private_key(ec.SECP384R1()).private_bytes(*private, NoEncryption()))
        case "rsa":
            path.write_bytes(rsa.generate_private_key(65537, 1024).private_bytes(*private, NoEncryption()))
        case "public":
            return keys.public
        case "no key":
            path.write_text("hello")
        case "cut":
            path.write_bytes(keys.private.read_bytes()[:100])
        case "a folder":
            return path.parent
        case "a pipe":
            path.unlink()
            os.mkfifo(path)
        case "nothing":
            path.unlink()
        case "large":
            path.write_bytes(b"\0" * (1 << 20))
    return path


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("encrypted", "is encrypted"),
        ("another curve", "secp384r1"),
        ("rsa", "RSAPrivateKey"),
        ("public", "holds a public key"),
        ("no key", "openssl genpkey"),
        ("cut", "openssl genpkey"),
        ("a folder", "is a folder"),
        ("a pipe", "is a pipe"),
        ("nothing", "is missing"),
        ("large", "at most"),
    ],
)
def test_a_key_that_cannot_sign_is_told_before_any_work(what: str, words: str, keys: Keys, tmp_path: Path) -> None:
    path = write_key(tmp_path / "key", what, keys)
    out = tmp_path / "out" / "bundle"
    # a checkpoint that is not there would be the first thing to be told
    result = CliRunner().invoke(compile_main, ["--sign", str(path), "--checkpoint", "/nowhere", "--out", str(out)])
    expect(result, KeyFileError, words)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("encrypted", "holds a private key"),
        ("rsa", "holds a private key"),
        ("no key", "openssl pkey"),
        ("a pipe", "is a pipe"),
        ("nothing", "is missing"),
    ],
)
def test_a_key_that_cannot_verify_is_told(what: str, words: str, bundle: Path, keys: Keys, tmp_path: Path) -> None:
    expect(verify(bundle, write_key(tmp_path / "key", what, keys)), KeyFileError, words)


def test_a_public_key_of_another_curve_is_told(bundle: Path, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    (tmp_path / "key").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    expect(verify(bundle, tmp_path / "key"), KeyFileError, "P-256")


def test_a_private_key_that_others_may_read_is_warned_of(keys: Keys, tmp_path: Path) -> None:
    command = ["--sign", str(keys.private), "--checkpoint", "/nowhere", "--out", str(tmp_path / "out" / "bundle")]
    assert "warning" not in CliRunner().invoke(compile_main, command).output
    keys.private.chmod(0o640)
    assert "chmod 600" in CliRunner().invoke(compile_main, command).output


def test_a_compile_command_without_its_key() -> None:
    words = ["g3n-compile", "--sign", "key.pem", "--size", "nano", "--sign=other.pem", "--signs"]
    assert without_option(words, "--sign") == ["g3n-compile", "--size", "nano", "--signs"]


def test_signature_only_needs_a_key(bundle: Path) -> None:
    assert "--key" in CliRunner().invoke(verify_main, [str(bundle), "--signature-only"]).output


def test_without_the_package_it_is_said(bundle: Path, keys: Keys) -> None:
    code = f"""
import sys
sys.modules["cryptography"] = None
from g3n_compiler.cli.verify import main
main([{str(bundle)!r}, "--key", {str(keys.public)!r}])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == CannotCheckSignature.exit_code, result.stderr
    assert "pip install 'g3n[sign]'" in result.stderr


def test_accepted_keys_are_kept_and_read_as_a_stranger_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "config" / "accepted_keys"
    first, second = ("-".join([digit * 8] * 8) for digit in "ab")
    keys = AcceptedKeys(path)
    assert first not in keys
    keys.add(first, "of a\nfriend")
    path.write_text(path.read_text().rstrip("\n") + "\n# a note\n\n" + second.upper().replace("-", ":"))
    assert first in keys and second in keys
    keys.add("-".join(["c" * 8] * 8), "third")
    assert len(path.read_text().splitlines()) == 5
    assert first in keys and second in keys
    path.write_text("hello\n")
    with pytest.raises(KeyFileError, match="not a fingerprint"):
        assert first in keys


def test_where_accepted_keys_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert accepted_keys_file() == tmp_path / "g3n" / "accepted_keys"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert accepted_keys_file() == Path.home() / ".config" / "g3n" / "accepted_keys"


def test_a_fingerprint_is_read_as_people_write_it() -> None:
    plain = "0123456789abcdef" * 4
    shown = parse_fingerprint(plain)
    assert shown == parse_fingerprint(shown.upper()) == parse_fingerprint(shown.replace("-", " "))
    with pytest.raises(KeyFileError):
        parse_fingerprint(plain[1:])
