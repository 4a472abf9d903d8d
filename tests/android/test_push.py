"""``g3n-push`` against an adb without a phone, see :mod:`tests.android.fake_adb`."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from g3n_compiler.bundle.signing import sign_bundle
from g3n_compiler.cli.push import main
from g3n_runtime.bundle import SIGNATURE
from g3n_runtime.errors import AdbError, BundleError, DeviceUnfit, HashMismatch, SignatureError
from g3n_runtime.push import FOLDER, DeviceFacts
from tests.android import fake_adb
from tests.android.short import write_short_bundle
from tests.android.signed import KEY, OTHER_KEY

SERIAL = "R5CT10ABCDE"
SIZES = {
    "model.litertlm": 5_000_000,
    "model.pte": 300_000,
    "model.ptd": 1,
    "tokenizer.json": 0,
    "vision.pte": 20,
    "audio.pte": 30,
}


class Phone:
    """A fake adb, its device's disk, and what is asked of it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "bin").mkdir(parents=True)
        (home / "disk" / "data" / "local" / "tmp").mkdir(parents=True)
        (home / "disk" / "proc").mkdir()
        self.adb = home / "adb"
        source = Path(fake_adb.__file__).read_text(encoding="utf-8")
        self._script(self.adb, f"#!{sys.executable}\n{source}")
        self.describe()
        self.state(devices={SERIAL: "device"})

    def describe(
        self, sdk: int = 34, abis: str = "arm64-v8a,armeabi-v7a", ram_mib: int = 7400, free_mib: int = 9000
    ) -> None:
        props = {"ro.build.version.sdk": sdk, "ro.product.cpu.abilist": abis, "ro.product.model": "Pixel 8"}
        cases = "".join(f"{name}) echo '{value}';;\n" for name, value in props.items())
        self._script(self.home / "bin" / "getprop", f'#!/bin/sh\ncase "$1" in\n{cases}esac\n')
        table = "Filesystem     1K-blocks     Used Available Use% Mounted on"
        row = f"/dev/block/dm-5 112134680 25643100 {free_mib * 1024} 23% /data/user/0"
        self._script(self.home / "bin" / "df", f"#!/bin/sh\necho '{table}'\necho '{row}'\n")
        text = f"MemTotal:       {ram_mib * 1024} kB\nMemFree:          204800 kB\n"
        (self.home / "disk" / "proc" / "meminfo").write_text(text)

    def state(self, **values: Any) -> None:
        path = self.home / "state.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**old, **values, "streamed": 0}))

    def forget(self, name: str) -> None:
        path = self.home / "state.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name}))

    def file(self, name: str) -> Path:
        return Path(f"{self.home}/disk{FOLDER}") / name

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls.log").read_text().splitlines()]

    def push(self, bundle: Path, *options: str) -> Result:
        return CliRunner().invoke(main, [str(bundle), "--adb", str(self.adb), *options])

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    return Phone(tmp_path / "phone")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "it's a bundle"
    folder.mkdir()
    write_short_bundle(folder, {path: os.urandom(size) for path, size in SIZES.items()})
    return folder


def expect(result: Result, error: type, *words: str) -> None:
    assert result.exit_code == error.exit_code, result.output + repr(result.exception)
    assert "error:" in result.output and "Traceback" not in result.output
    for word in words:
        assert word in result.output.replace("\n", " ")


def assert_pushed(phone: Phone, bundle: Path) -> None:
    for path in bundle.iterdir():
        copy = phone.file(f"{bundle.name}/{path.name}")
        assert copy.read_bytes() == path.read_bytes(), path.name
        assert stat.S_IMODE(copy.stat().st_mode) == 0o644
    assert not list(phone.file(bundle.name).glob("*.part"))


def test_a_bundle_arrives_whole_and_verified(phone: Phone, bundle: Path) -> None:
    result = phone.push(bundle)
    assert result.exit_code == 0, result.output
    assert f"{FOLDER}/{bundle.name}" in result.output and "verified on the device" in result.output
    assert_pushed(phone, bundle)
    commands = [" ".join(call) for call in phone.calls()]
    last_write = max(i for i, c in enumerate(commands) if "cat >>" in c)
    assert "manifest.json" in commands[last_write]
    assert all(call[:2] == ["-s", SERIAL] for call in phone.calls()[1:])


def test_a_second_push_sends_nothing_but_the_manifest(phone: Phone, bundle: Path) -> None:
    phone.push(bundle)
    before = len(phone.calls())
    assert phone.push(bundle).exit_code == 0
    sent = [" ".join(call) for call in phone.calls()[before:] if "cat >>" in " ".join(call)]
    assert len(sent) == 1 and "manifest.json" in sent[0]


def test_a_broken_copy_goes_on_where_it_ended(phone: Phone, bundle: Path) -> None:
    phone.state(unplugged_after=3_000_000)
    expect(phone.push(bundle), AdbError, "model.litertlm", "run the command again")
    assert not phone.file(f"{bundle.name}/manifest.json").exists()
    (part,) = phone.file(bundle.name).glob("*.part")
    kept = part.read_bytes()
    assert kept == (bundle / "model.litertlm").read_bytes()[: len(kept)] and len(kept) == 3_000_000
    phone.forget("unplugged_after")
    phone.state(full_after=SIZES["model.litertlm"] - 2_000_000)  # a restart from zero would not fit
    assert phone.push(bundle).exit_code == 0
    assert_pushed(phone, bundle)


def test_a_changed_file_replaces_the_one_on_the_device(phone: Phone, bundle: Path) -> None:
    phone.push(bundle)
    phone.file(f"{bundle.name}/model.pte").write_bytes(b"\0" * SIZES["model.pte"])
    assert phone.push(bundle).exit_code == 0
    assert_pushed(phone, bundle)


def test_damage_on_the_way_is_found(phone: Phone, bundle: Path) -> None:
    phone.state(corrupts=True)
    expect(phone.push(bundle), AdbError, "arrived damaged")
    assert not list(phone.file(bundle.name).iterdir())


def test_a_full_disk_is_told(phone: Phone, bundle: Path) -> None:
    phone.state(full_after=1_000_000)
    expect(phone.push(bundle), AdbError, "No space left on device")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"sdk": 25}, ["API level 25", "26"]),
        ({"abis": "armeabi-v7a,armeabi"}, ["armeabi-v7a", "arm64-v8a"]),
        ({"ram_mib": 900}, ["1.0 GiB", "2.0 GiB", "--force"]),
        ({"free_mib": 100}, ["0.1 GiB", "make room"]),
    ],
)
def test_an_unfit_device_is_told_before_anything_is_copied(
    phone: Phone, bundle: Path, facts: dict[str, Any], words: list[str]
) -> None:
    phone.describe(**facts)
    expect(phone.push(bundle), DeviceUnfit, "Pixel 8", *words)
    assert not any("cat >>" in " ".join(call) for call in phone.calls())


def test_force_pushes_all_the_same(phone: Phone, bundle: Path) -> None:
    phone.describe(ram_mib=900)
    assert phone.push(bundle, "--force").exit_code == 0
    assert_pushed(phone, bundle)


@pytest.mark.parametrize(
    ("devices", "options", "words"),
    [
        ({}, [], ["no device", "USB debugging"]),
        ({"a": "device", "b": "device"}, [], ["2 devices (a, b)", "--serial"]),
        ({"a": "unauthorized"}, [], ["unauthorized", "allow USB debugging"]),
        ({"a": "offline"}, [], ["offline"]),
        ({"a": "device"}, ["--serial", "c"], ["no device c", "a"]),
    ],
)
def test_devices_that_cannot_be_used(
    phone: Phone, bundle: Path, devices: dict[str, str], options: list[str], words: list[str]
) -> None:
    phone.state(devices=devices)
    expect(phone.push(bundle, *options), AdbError, *words)


def test_one_of_several_devices(phone: Phone, bundle: Path) -> None:
    phone.state(devices={"a": "offline", SERIAL: "device"})
    assert phone.push(bundle, "--serial", SERIAL).exit_code == 0


def test_no_adb(phone: Phone, bundle: Path) -> None:
    expect(CliRunner().invoke(main, [str(bundle), "--adb", "no-such-adb"]), AdbError, "platform tools")


def test_a_broken_bundle_is_not_pushed(phone: Phone, bundle: Path) -> None:
    (bundle / "model.pte").write_bytes(b"\0" * SIZES["model.pte"])
    expect(phone.push(bundle), HashMismatch, "model.pte")
    (bundle / "manifest.json").unlink()
    expect(phone.push(bundle), BundleError, "not a g3n bundle")


def test_the_app_is_installed_when_asked(phone: Phone, bundle: Path, tmp_path: Path) -> None:
    apk = tmp_path / "g3n.apk"
    apk.write_bytes(b"PK")
    result = phone.push(bundle, "--apk", str(apk))
    assert result.exit_code == 0 and "g3n.apk is installed" in result.output
    phone.state(install_fails="INSTALL_FAILED_UPDATE_INCOMPATIBLE: signatures do not match")
    expect(phone.push(bundle, "--apk", str(apk)), AdbError, "signatures do not match")


@pytest.fixture
def signed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    sign_bundle(bundle, json.loads((bundle / "manifest.json").read_text()), KEY)
    return bundle


def test_who_made_a_bundle_is_shown_and_its_signature_travels(phone: Phone, signed: Path) -> None:
    fingerprint = KEY.public.fingerprint
    result = phone.push(signed)
    assert result.exit_code == 0 and f"unknown key {fingerprint}" in result.output, result.output
    assert_pushed(phone, signed)
    accepted = phone.push(signed, "--accept-key", fingerprint.upper().replace("-", ""))
    assert f"the accepted key {fingerprint}" in accepted.output
    assert f"the accepted key {fingerprint}" in phone.push(signed).output
    sign_bundle(signed, json.loads((signed / "manifest.json").read_text()), OTHER_KEY)
    assert f"unknown key {OTHER_KEY.public.fingerprint}" in phone.push(signed).output
    (signed / SIGNATURE).unlink()
    assert "not signed" in phone.push(signed).output
    assert not phone.file(f"{signed.name}/{SIGNATURE}").exists()  # not the one of the push before


def test_a_key_is_accepted_only_with_a_bundle_that_it_signed(phone: Phone, signed: Path, tmp_path: Path) -> None:
    expect(phone.push(signed, "--accept-key", OTHER_KEY.public.fingerprint), SignatureError, "no key was accepted")
    signature = json.loads((signed / SIGNATURE).read_text())
    signature["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA"
    (signed / SIGNATURE).write_text(json.dumps(signature))
    expect(phone.push(signed, "--accept-key", KEY.public.fingerprint), SignatureError, "not a signature of the key")
    expect(phone.push(signed), SignatureError, "not a signature of the key")
    (signed / SIGNATURE).unlink()
    expect(phone.push(signed, "--accept-key", KEY.public.fingerprint), SignatureError, "is not signed")
    assert not (tmp_path / "config").exists() and not (phone.home / "calls.log").exists()


def test_memory_a_phone_was_sold_with() -> None:
    facts = DeviceFacts("x", 34, ("arm64-v8a",), 7400 << 20, 0)
    assert facts.sold_ram == 8 << 30
