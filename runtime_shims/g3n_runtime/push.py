"""Sideload a bundle over adb: look at the device first, stream files so that a broken copy resumes, hash them there.

Needs ``adb`` (Android's platform tools) and a device with Android 8 or later, whose shell reports exit codes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from g3n_runtime.adb import HASH_SECONDS, Adb
from g3n_runtime.bundle import MANIFEST, SIGNATURE, Bundle
from g3n_runtime.errors import AdbError, BundleError, DeviceUnfit, UnsafePath
from g3n_runtime.terminal import printable_line

FOLDER = "/data/local/tmp/g3n"
"""Where the sample app looks: the shell may write there, and every app may read."""
APP_MIN_SDK = 26
APP_ABIS = ("arm64-v8a", "x86_64")
KIB = 1024
SPARE_BYTES = 256 << 20
"""Left free on the device beside the bundle."""
SOLD_GIB = (1, 2, 3, 4, 6, 8, 12, 16, 18, 24, 32)
MOST_NAME = 200
"""Bytes of a folder's name."""
MODEL, SDK, ABIS = "ro.product.model", "ro.build.version.sdk", "ro.product.cpu.abilist"

Report = Callable[[int, int], None]
"""Told the bytes done and the bytes in all."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a device says of itself; memory and disk in bytes."""

    model: str
    sdk: int
    abis: tuple[str, ...]
    ram: int
    free: int

    @property
    def sold_ram(self) -> int:
        """Memory the device was sold with: the kernel keeps a part of it to itself."""
        return next((gib << 30 for gib in SOLD_GIB if gib << 30 >= self.ram), self.ram)


def device_facts(adb: Adb) -> DeviceFacts:
    """Ask the device what it is.

    Raises:
        AdbError: an answer that is not understood.
    """
    prop = {name: adb.shell(f"getprop {name}").strip() for name in (MODEL, SDK, ABIS)}
    memory = re.search(r"^MemTotal:\s+([0-9]{1,15}) kB$", adb.shell("cat /proc/meminfo"), re.MULTILINE)
    disk = adb.shell("df -k /data/local/tmp").strip().splitlines()[-1:]
    free = re.fullmatch(r"\S+\s+[0-9]+\s+[0-9]+\s+([0-9]{1,15})\s+[0-9]+%\s+/\S*", disk[0].strip() if disk else "")
    expected = {MODEL: r"[^\n]{1,200}", SDK: r"[0-9]{1,4}", ABIS: r"[A-Za-z0-9_,-]{1,200}"}
    for name, form in expected.items():
        if not re.fullmatch(form, prop[name]):
            adb.not_understood(f"getprop {name}", prop[name])
    if memory is None or free is None:
        adb.not_understood("cat /proc/meminfo" if memory is None else "df", "another form")
    model = printable_line(prop[MODEL])
    return DeviceFacts(model, int(prop[SDK]), tuple(prop[ABIS].split(",")), int(memory[1]) * KIB, int(free[1]) * KIB)


def remote_folder(bundle: Bundle) -> str:
    """The bundle's folder on the device: right below :data:`FOLDER`, by the name that the folder has here.

    Raises:
        BundleError: it has a name that a device or a terminal could take for something else.
    """
    name = bundle.directory.resolve().name
    plain = name == printable_line(name) and len(name.encode(errors="replace")) <= MOST_NAME
    if not name or not plain:
        raise BundleError(
            f"the folder's name {name!r} cannot be a device's: rename it to at most {MOST_NAME} plain bytes"
        )
    for entry in bundle.manifest["files"]:
        if entry["path"] != printable_line(entry["path"]) or ".." in entry["path"].split("/"):
            raise UnsafePath(f"{entry['path']!r} cannot be a file's name on a device: compile the bundle again")
    return f"{FOLDER}/{name}"


def check_device(facts: DeviceFacts, bundle: Bundle, missing_bytes: int) -> None:
    """Raise :class:`DeviceUnfit` unless the device can run the app and holds the bundle.

    Args:
        missing_bytes: what has yet to be copied.
    """
    if facts.sdk < APP_MIN_SDK:
        raise DeviceUnfit(f"{facts.model} has Android API level {facts.sdk}, the app needs {APP_MIN_SDK} (Android 8)")
    if not set(facts.abis) & set(APP_ABIS):
        raise DeviceUnfit(f"{facts.model} runs {', '.join(facts.abis)}, the app is built for {', '.join(APP_ABIS)}")
    least = min(ledger["least_device_ram"] for ledger in bundle.manifest["memory"].values())
    if facts.sold_ram < least:
        raise DeviceUnfit(
            f"{facts.model} has {_gib(facts.sold_ram)} of memory, the bundle needs {_gib(least)}: "
            "compile a smaller size, or push it all the same with --force"
        )
    if facts.free < missing_bytes + SPARE_BYTES:
        needed = _gib(missing_bytes + SPARE_BYTES)
        raise DeviceUnfit(f"{facts.model} has {_gib(facts.free)} free, the bundle needs {needed} more: make room")


def push_bundle(adb: Adb, bundle: Bundle, report: Report = lambda done, total: None, *, force: bool = False) -> str:
    """Copy ``bundle`` into :data:`FOLDER` on the device and return its folder there.

    Files that are already there with the right hash are left alone; one that was broken off goes on where it ended. The
    manifest comes last, after the signature if there is one, so that half a bundle is never taken for a whole one.

    Args:
        force: skip the checks of the device.

    Raises:
        AdbError: adb failed, or a file arrived damaged.
        DeviceUnfit: the device cannot hold or run it.
    """
    folder = remote_folder(bundle)
    entries = bundle.manifest["files"]
    sizes = {entry["path"]: _remote_size(adb, f"{folder}/{entry['path']}") for entry in entries}
    missing = sum(entry["bytes"] for entry in entries if sizes[entry["path"]] != entry["bytes"])
    if not force:
        check_device(device_facts(adb), bundle, missing)
    total, before = sum(entry["bytes"] for entry in entries), 0
    adb.shell(f"mkdir -p {shlex.quote(folder)} && chmod 755 {FOLDER} {shlex.quote(folder)}")
    adb.shell(f"rm -f {shlex.quote(f'{folder}/{MANIFEST}')} {shlex.quote(f'{folder}/{SIGNATURE}')}")
    for entry in entries:

        def count(done: int, before: int = before) -> None:
            report(before + done, total)

        _push_file(adb, bundle.directory / entry["path"], entry, folder, count)
        before += entry["bytes"]
        report(before, total)
    if (bundle.directory / SIGNATURE).is_file():
        _push_small(adb, bundle.directory / SIGNATURE, folder)
    _push_small(adb, bundle.directory / MANIFEST, folder)
    return folder


def _push_file(adb: Adb, source: Path, entry: dict[str, object], folder: str, report: Callable[[int], None]) -> None:
    size, digest = int(str(entry["bytes"])), str(entry["sha256"])
    target = f"{folder}/{entry['path']}"
    if _remote_size(adb, target) == size and _remote_sha256(adb, target) == digest:
        return
    # Named after its content: a part of an earlier version of the file is never continued.
    part = f"{target}.{digest[:12]}.part"
    adb.shell(f"mkdir -p {shlex.quote(target.rpartition('/')[0])}")
    offset = _remote_size(adb, part) or 0
    if offset > size:
        adb.shell(f"rm -f {shlex.quote(part)}")
        offset = 0
    done = offset

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        report(done)

    adb.append(source, offset, part, count)
    if (arrived := _remote_size(adb, part)) != size or _remote_sha256(adb, part) != digest:
        adb.shell(f"rm -f {shlex.quote(part)}")
        raise AdbError(f"{source.name} arrived damaged ({arrived} of {size} bytes): run the command again")
    adb.shell(f"chmod 644 {shlex.quote(part)} && mv {shlex.quote(part)} {shlex.quote(target)}")


def _push_small(adb: Adb, source: Path, folder: str) -> None:
    """Replace a file that the manifest does not list."""
    part, target = f"{folder}/{source.name}.part", f"{folder}/{source.name}"
    adb.shell(f"rm -f {shlex.quote(part)}")
    adb.append(source, 0, part, lambda nbytes: None)
    if _remote_size(adb, part) != source.stat().st_size:
        raise AdbError(f"{source.name} arrived damaged: run the command again")
    adb.shell(f"chmod 644 {shlex.quote(part)} && mv {shlex.quote(part)} {shlex.quote(target)}")


def _remote_size(adb: Adb, path: str) -> int | None:
    """Bytes of a file on the device, ``None`` if there is none."""
    command = f"stat -c %s {shlex.quote(path)} 2>/dev/null || echo -1"
    said = adb.shell(command).strip()
    if not re.fullmatch(r"-1|[0-9]{1,18}", said):
        adb.not_understood("stat", said)
    return None if said == "-1" else int(said)


def _remote_sha256(adb: Adb, path: str) -> str:
    said = adb.shell(f"sha256sum < {shlex.quote(path)}", HASH_SECONDS).strip()
    if not re.fullmatch(r"[0-9a-f]{64}(\s+-)?", said):
        adb.not_understood("sha256sum", said)
    return said[:64]


def _gib(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB"
