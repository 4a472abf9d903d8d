"""The APK that ``make apk`` builds, read back by tools that did not build it."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from android_app.tests.conftest import ROOT, run
from g3n_runtime.bundle import open_bundle
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.push import APP_ABIS, APP_MIN_SDK

PACKAGE = "org.g3n.app"
PAGE = 16384
"""Newer phones map libraries in pages of this size."""
SYSTEM_LIBRARIES = {"libc.so", "libm.so", "libdl.so", "liblog.so", "libandroid.so", "libz.so"}
"""What Android's NDK promises on every phone."""


@pytest.fixture(scope="module")
def apk(android: Path) -> Path:
    path = android / "g3n.apk"
    assert path.exists(), "make apk builds it"
    return path


def test_it_is_signed(apk: Path) -> None:
    said = run("apksigner", "verify", "--verbose", "--min-sdk-version", str(APP_MIN_SDK), apk)
    assert re.search(r"v2 scheme.*: true", said) and re.search(r"v3 scheme.*: true", said)


def test_its_size_is_what_the_readme_says(apk: Path) -> None:
    text = (ROOT / "android_app" / "README.md").read_text("utf-8")
    (said,) = re.findall(r"for arm64-v8a and x86_64; about (\d+) MB", text)
    assert abs(apk.stat().st_size / 1e6 - int(said)) < 3


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
    assert b"Lcom/google/ai/edge/litertlm/NativeLiteRtLm;" not in dex


def test_the_engine_classes_that_the_app_asks_for_are_in_it(apk: Path) -> None:
    source = (ROOT / "android_app/app/src/main/kotlin/org/g3n/app/Engines.kt").read_text("utf-8")
    named = re.findall(r'"((?:com|org)\.[\w.]+\.[A-Z]\w*)"', source)
    with zipfile.ZipFile(apk) as archive:
        files = [archive.read(name) for name in archive.namelist() if re.fullmatch(r"classes\d*\.dex", name)]
    defined = {name for dex in files for name in defined_classes(dex)}
    # LiteRT-LM for Android is on Google's Maven only: the app names it and is built without it here.
    assert {name for name in named if name not in defined} == {"com.google.ai.edge.litertlm.Engine"}
    assert len(named) == 5 and "org.g3n.app.LoadActivity" in defined


def defined_classes(dex: bytes) -> Iterator[str]:
    """The classes whose code a dex file holds, not those that it only names."""
    strings, types, (count, classes) = (struct.unpack_from("<II", dex, at) for at in (0x38, 0x40, 0x60))
    for i in range(count):
        (kind,) = struct.unpack_from("<I", dex, classes + 32 * i)
        (text,) = struct.unpack_from("<I", dex, types[1] + 4 * kind)
        (start,) = struct.unpack_from("<I", dex, strings[1] + 4 * text)
        # The length comes first, in bytes of 7 bits.
        while dex[start] & 0x80:
            start += 1
        yield dex[start + 1 : dex.index(b"\0", start + 1)].decode()[1:-1].replace("/", ".")


def test_every_library_that_a_library_needs_is_packed_or_the_systems(apk: Path) -> None:
    with zipfile.ZipFile(apk) as archive:
        for abi in APP_ABIS:
            packed = {Path(n).name: archive.read(n) for n in archive.namelist() if n.startswith(f"lib/{abi}/")}
            assert "libexecutorch.so" in packed
            for name, elf in packed.items():
                absent = needed(elf) - packed.keys() - SYSTEM_LIBRARIES
                assert not absent, f"{abi}/{name} needs {absent}"


@pytest.mark.parametrize("abi", APP_ABIS)
def test_the_packed_executorch_has_every_kernel_that_our_program_calls(
    abi: str, apk: Path, nano_fp32: Path, nano_int4: Path
) -> None:
    with zipfile.ZipFile(apk) as archive:
        library = archive.read(f"lib/{abi}/libexecutorch.so")
    for folder in (nano_fp32, nano_int4):
        bundle = open_bundle(folder)
        called = operators(bundle.file(ROLES["model"]))
        assert len(called) > 5
        absent = {name for name in called if name.encode() + b"\0" not in library}
        assert not absent, f"{folder.name} calls {absent}"


def operators(program: Path) -> set[str]:
    """The kernels that a program calls beside its delegates, such as ``aten::add.out``."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    plans = deserialize_pte_binary(program.read_bytes()).program.execution_plan
    return {f"{op.name}.{op.overload}" if op.overload else op.name for plan in plans for op in plan.operators}


def needed(elf: bytes) -> set[str]:
    """The names of the libraries that a 64-bit ELF file needs."""
    (offset,) = struct.unpack_from("<Q", elf, 40)
    size, count, _ = struct.unpack_from("<HHH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, offset + i * size) for i in range(count)]
    dynamic = next(section for section in sections if section[1] == 6)
    strings = sections[dynamic[6]][4]
    entries = struct.iter_unpack("<qQ", elf[dynamic[4] : dynamic[4] + dynamic[5]])
    starts = [strings + value for tag, value in entries if tag == 1]
    return {elf[start : elf.index(b"\0", start)].decode() for start in starts}


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
