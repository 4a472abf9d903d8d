"""The APK that ``make apk`` builds, read back by tools that did not build it."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path

import pytest

from android_app.tests.conftest import ROOT, run
from g3n_runtime.push import APP_ABIS, APP_MIN_SDK

PACKAGE = "org.g3n.app"
PAGE = 16384
"""Newer phones map libraries in pages of this size."""


@pytest.fixture(scope="module")
def apk(android: Path) -> Path:
    path = android / "g3n.apk"
    assert path.exists(), "make apk builds it"
    return path


def test_it_is_signed(apk: Path) -> None:
    said = run("apksigner", "verify", "--verbose", "--min-sdk-version", str(APP_MIN_SDK), apk)
    assert re.search(r"v2 scheme.*: true", said) and re.search(r"v3 scheme.*: true", said)


def test_it_asks_for_the_microphone_and_nothing_else(apk: Path) -> None:
    said = run("aapt", "dump", "permissions", apk)
    asked = set(re.findall(r"uses-permission: name='([^']+)'", said))
    assert asked == {"android.permission.RECORD_AUDIO"}
    assert f"package: {PACKAGE}" in said


def test_its_manifest_is_what_the_tools_expect(apk: Path) -> None:
    said = run("aapt", "dump", "badging", apk)
    assert f"sdkVersion:'{APP_MIN_SDK}'" in said and "targetSdkVersion:'34'" in said
    assert f"launchable-activity: name='{PACKAGE}.LoadActivity'" in said
    abis = re.search(r"native-code: (.+)", said)
    assert abis and set(re.findall(r"'([^']+)'", abis[1])) == set(APP_ABIS)
    tree = run("aapt", "dump", "xmltree", apk, "AndroidManifest.xml")
    exported = re.findall(
        r"E: activity.*?android:name\(\S+\)=\"([^\"]+)\".*?android:exported\(\S+\)=\(type \S+\)(\S+)", tree, re.S
    )
    assert dict(exported) == {
        f"{PACKAGE}.LoadActivity": "0xffffffff", f"{PACKAGE}.ChatActivity": "0x0", f"{PACKAGE}.SelfTestActivity": "0x0",
    }  # fmt: skip


def test_it_carries_the_published_schema_and_both_themes(apk: Path) -> None:
    with zipfile.ZipFile(apk) as archive:
        schema = (ROOT / "runtime_shims" / "g3n_runtime" / "manifest.schema.json").read_bytes()
        assert archive.read("manifest.schema.json") == schema
    resources = run("aapt", "dump", "resources", apk)
    assert re.search(r"config night", resources), "no theme for the night"


def test_stubs_are_compiled_against_and_not_packed(apk: Path) -> None:
    with zipfile.ZipFile(apk) as archive:
        dex = b"".join(archive.read(name) for name in archive.namelist() if re.fullmatch(r"classes\d*\.dex", name))
    assert b"Lorg/g3n/app/LoadActivity;" in dex and b"Lorg/g3n/core/ui/ChatPresenter;" in dex
    assert b"a signature without a body" not in dex


def test_native_libraries_are_stored_for_large_pages(apk: Path) -> None:
    with zipfile.ZipFile(apk) as archive:
        libraries = [entry for entry in archive.infolist() if entry.filename.endswith(".so")]
        assert {Path(entry.filename).parts[1] for entry in libraries} == set(APP_ABIS)
        for entry in libraries:
            assert entry.compress_type == zipfile.ZIP_STORED
            assert min(segment_alignments(archive.read(entry))) >= PAGE, entry.filename
            assert data_offset(apk, entry) % PAGE == 0, entry.filename


def data_offset(apk: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of ``entry`` begin: its local header has a name and an extra field of its own lengths."""
    with apk.open("rb") as file:
        file.seek(entry.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return entry.header_offset + 30 + int(name) + int(extra)


def segment_alignments(elf: bytes) -> list[int]:
    """Alignments of the segments that a 64-bit ELF file has loaded."""
    assert elf[:5] == b"\x7fELF\x02"
    offset, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", elf, offset + i * size) for i in range(count)]
    return [header[7] for header in headers if header[0] == 1]
