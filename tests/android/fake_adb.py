"""An ``adb`` without a phone: the protocol's visible behaviour over a folder that stands for the device's disk.

Messages and exit codes are adb's. Device commands run in a real ``sh``, joined by spaces as adb joins them, with the
paths of the device moved under the folder. ``state.json`` beside this script's copy says what is connected and what
goes wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

HOME = Path(sys.argv[0]).resolve().parent
STATE = HOME / "state.json"
ROOT = HOME / "disk"
MOVED = ("/data/local/tmp", "/proc/meminfo")


def main(arguments: list[str]) -> None:
    state: dict[str, Any] = json.loads(STATE.read_text())
    with (HOME / "calls.log").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    if not state.get("daemon"):
        sys.stderr.write("* daemon not running; starting now at tcp:5037\n* daemon started successfully\n")
        state["daemon"] = True
        STATE.write_text(json.dumps(state))
    serial = None
    if arguments[:1] == ["-s"]:
        serial, arguments = arguments[1], arguments[2:]
    if arguments == ["devices"]:
        lines = [f"{name}\t{mode}" for name, mode in state["devices"].items()]
        sys.stdout.write("\n".join(["List of devices attached", *lines, "", ""]))
        return
    require_device(state, serial)
    if arguments[0] == "shell":
        shell(state, arguments[1:])
    elif arguments[0] == "install":
        install(state, arguments[1:])
    else:
        fail(f"adb: unknown command {arguments[0]}")


def require_device(state: dict[str, Any], serial: str | None) -> None:
    devices = state["devices"]
    if serial is None and len(devices) > 1:
        fail("adb: more than one device/emulator")
    name = serial or next(iter(devices), None)
    if name not in devices:
        fail(f"adb: device '{name}' not found" if name else "adb: no devices/emulators found")
    if devices[name] != "device":
        fail(f"adb: device {devices[name]}.")


def shell(state: dict[str, Any], arguments: list[str]) -> NoReturn:
    flags = {a for a in arguments if a in ("-n", "-T")}
    command = " ".join(a for a in arguments if a not in flags)
    for path in MOVED:
        command = command.replace(path, f"{ROOT}{path}")
    environment = {"PATH": f"{HOME / 'bin'}:{os.environ['PATH']}", "LC_ALL": "C"}
    if "-n" in flags:
        sys.exit(
            subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, env=environment, check=False).returncode
        )
    child = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, env=environment)
    assert child.stdin is not None
    while block := sys.stdin.buffer.read1(1 << 16):
        limit = state.get("unplugged_after")
        if limit is not None and (room := limit - state.setdefault("streamed", 0)) < len(block):
            child.stdin.write(block[: max(0, room)])
            child.stdin.close()
            child.wait()
            sys.exit(255)  # adb says nothing when the cable is pulled
        if "full_after" in state and state.setdefault("streamed", 0) + len(block) > state["full_after"]:
            child.kill()
            sys.stdout.write("cat: xwrite: No space left on device\n")
            sys.exit(1)
        state["streamed"] = state.get("streamed", 0) + len(block)
        child.stdin.write(flipped(block) if state.get("corrupts") else block)
    child.stdin.close()
    sys.exit(child.wait())


def flipped(block: bytes) -> bytes:
    return bytes([block[0] ^ 1]) + block[1:]


def install(state: dict[str, Any], arguments: list[str]) -> None:
    sys.stdout.write("Performing Streamed Install\n")
    if reason := state.get("install_fails"):
        fail(f"adb: failed to install {arguments[-1]}: Failure [{reason}]")
    sys.stdout.write("Success\n")


def fail(message: str) -> NoReturn:
    sys.stderr.write(message + "\n")
    sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
