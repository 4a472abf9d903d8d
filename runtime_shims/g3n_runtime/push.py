"""Sideload a bundle over adb: look at the device first, stream files so that a broken copy resumes, hash them there.

Needs ``adb`` (Android's platform tools) and a device with Android 8 or later, whose shell tells exit codes.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from g3n_runtime.bundle import MANIFEST, SIGNATURE, Bundle
from g3n_runtime.errors import G3nError

FOLDER = "/data/local/tmp/g3n"
"""Where the sample app looks: the shell may write there, and every app may read."""
APP_MIN_SDK = 26
APP_ABIS = ("arm64-v8a", "x86_64")
KIB = 1024
CHUNK = 1 << 20
SPARE_BYTES = 256 << 20
"""Left free on the device beside the bundle."""
SOLD_GIB = (1, 2, 3, 4, 6, 8, 12, 16, 18, 24, 32)
QUERY_SECONDS = 60
HASH_SECONDS = 1800
INSTALL_SECONDS = 600

Report = Callable[[int, int], None]
"""Told the bytes done and the bytes in all."""


class AdbError(G3nError):
    """adb is missing, sees no usable device, or failed on the way."""

    exit_code = 70


class DeviceUnfit(G3nError):
    """The device cannot hold or run the bundle."""

    exit_code = 71


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


class Adb:
    """One device behind ``adb``.

    Args:
        program: the adb executable.
        serial: the device; may be left out when one is connected.

    Raises:
        AdbError: no adb, no device, several devices and no serial, or a device that does not let us in.
    """

    def __init__(self, program: str = "adb", serial: str | None = None) -> None:
        found = shutil.which(program)
        if found is None:
            raise AdbError(f"{program} was not found: install Android's platform tools, or name it with --adb")
        self._program = found
        self.serial = self._choose(serial)

    def shell(self, command: str, seconds: float = QUERY_SECONDS) -> str:
        """What ``command`` prints on the device; raises :class:`AdbError` when it fails."""
        result = self._run(["-s", self.serial, "shell", "-n", command], seconds)
        if result.returncode != 0:
            raise AdbError(f"{command.split()[0]} failed on {self.serial}: {_last_line(result)}")
        return result.stdout

    def append(self, source: Path, offset: int, target: str, report: Callable[[int], None]) -> None:
        """Append ``source`` from byte ``offset`` on to ``target``; ``report`` is told the bytes of each write."""
        command = [self._program, "-s", self.serial, "shell", "-T", f"cat >> {shlex.quote(target)}"]
        with source.open("rb") as file:
            file.seek(offset)
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert child.stdin is not None and child.stdout is not None
            try:
                while block := file.read(CHUNK):
                    child.stdin.write(block)
                    report(len(block))
                child.stdin.close()
            except BrokenPipeError:
                pass  # said by the exit code below
            except BaseException:
                child.kill()
                child.wait()
                raise
            said = child.stdout.read().decode(errors="replace").strip()
            if child.wait() != 0:
                reason = said.splitlines()[-1] if said else "the connection was lost"
                raise AdbError(
                    f"copying {source.name} broke off ({reason}): run the command again, it goes on from there"
                )

    def install(self, apk: Path) -> None:
        """Install or update the app."""
        result = self._run(["-s", self.serial, "install", "-r", str(apk)], INSTALL_SECONDS)
        if result.returncode != 0 or "Success" not in result.stdout:
            raise AdbError(f"{apk.name} was not installed: {_last_line(result)}")

    def _choose(self, serial: str | None) -> str:
        result = self._run(["devices"], QUERY_SECONDS)
        if result.returncode != 0:
            raise AdbError(f"adb does not start: {_last_line(result)}")
        states = dict(line.split("\t", 1) for line in result.stdout.splitlines() if "\t" in line)
        if serial is not None and serial not in states:
            raise AdbError(f"adb sees no device {serial}: it sees {', '.join(states) or 'none'}")
        if not states:
            raise AdbError(
                "adb sees no device: connect one by cable and switch on USB debugging in its developer options"
            )
        if serial is None and len(states) > 1:
            raise AdbError(f"adb sees {len(states)} devices ({', '.join(states)}): choose one with --serial")
        chosen = serial or next(iter(states))
        if states[chosen] != "device":
            advice = {
                "unauthorized": "unlock it and allow USB debugging for this computer",
                "offline": "plug it in again",
            }.get(states[chosen], "see adb devices")
            raise AdbError(f"{chosen} is {states[chosen]}: {advice}")
        return chosen

    def _run(self, arguments: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self._program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AdbError(f"adb gave no answer within {seconds:.0f} s: plug the device in again") from None


def device_facts(adb: Adb) -> DeviceFacts:
    """Ask the device what it is.

    Raises:
        AdbError: an answer that is not understood.
    """
    model, sdk, abis = (
        adb.shell(f"getprop {name}").strip()
        for name in ("ro.product.model", "ro.build.version.sdk", "ro.product.cpu.abilist")
    )
    memory = adb.shell("cat /proc/meminfo")
    disk = adb.shell("df -k /data/local/tmp")
    try:
        total = next(line.split()[1] for line in memory.splitlines() if line.startswith("MemTotal:"))
        free = disk.splitlines()[-1].split()[3]
        return DeviceFacts(model, int(sdk), tuple(abis.split(",")), int(total) * KIB, int(free) * KIB)
    except (StopIteration, IndexError, ValueError):
        raise AdbError(f"{adb.serial} does not answer as an Android device does") from None


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
    folder = f"{FOLDER}/{bundle.directory.name}"
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
    said = adb.shell(f"stat -c %s {shlex.quote(path)} 2>/dev/null || echo none").strip()
    return int(said) if said.isdigit() else None


def _remote_sha256(adb: Adb, path: str) -> str:
    return adb.shell(f"sha256sum {shlex.quote(path)}", HASH_SECONDS).split()[0]


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit code {result.returncode}"


def _gib(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB"
