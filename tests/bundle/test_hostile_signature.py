"""Signatures that a hostile hand changed: each is verified or refused, and never more."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g3n_runtime.bundle import MANIFEST, SIGNATURE, Bundle, open_bundle
from g3n_runtime.errors import CannotCheckSignature, SignatureError
from g3n_runtime.signature import check_signature, preauthentication
from tests.android.signed import KEY
from tests.bundle.signed_bundle import VECTORS, statement
from tests.fuzz.mutate_json import edited_json


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
def test_any_signature_and_any_statement_is_verified_or_refused(signed_bundle: Path, data: st.DataObject) -> None:
    whole = json.loads((signed_bundle / SIGNATURE).read_text())
    if data.draw(st.booleans()):
        text = data.draw(edited_json([whole]))
    else:  # signed by its key: the statement is then hostile in itself
        text = resigned(whole, data.draw(edited_json([statement(whole)])))
    (signed_bundle / SIGNATURE).write_bytes(text)
    try:
        check_signature(open_bundle(signed_bundle))
    except (SignatureError, CannotCheckSignature) as error:
        assert len(str(error)) < 1000
    finally:
        (signed_bundle / SIGNATURE).write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../key", "/etc/passwd", "a\0b", "a" * 5000, "a/" * 3000, "model.pte/x", "sub"]
)
def test_names_that_a_hostile_statement_lists(name: str, signed_bundle: Path) -> None:
    (signed_bundle / "sub").mkdir()
    whole = json.loads((signed_bundle / SIGNATURE).read_text())
    tree = statement(whole)
    tree["predicate"]["resources"].append({"name": name, "digest": "0" * 64, "algorithm": "sha256"})
    (signed_bundle / SIGNATURE).write_bytes(resigned(whole, json.dumps(tree).encode()))
    if name == "model.pte/x":  # there is no such file, and none is needed
        assert check_signature(open_bundle(signed_bundle)) == KEY.public
        return
    with pytest.raises(SignatureError):
        check_signature(open_bundle(signed_bundle))


def resigned(signature: dict[str, Any], payload: bytes) -> bytes:
    """The signature of :data:`KEY` over another payload."""
    changed = json.loads(json.dumps(signature))
    changed["verificationMaterial"]["publicKey"]["rawBytes"] = base64.b64encode(KEY.public.der).decode()
    changed["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    value = base64.b64encode(KEY.sign(preauthentication(payload))).decode()
    changed["dsseEnvelope"]["signatures"][0]["sig"] = value
    return json.dumps(changed).encode()
