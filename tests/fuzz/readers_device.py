"""What a device behind ``adb`` answers, while ``g3n-push`` copies a small bundle to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from tests.android.short import write_short_bundle
from tests.fuzz.case import Case, Entry
from tests.fuzz.mutate_bytes import damaged
from tests.fuzz.reader import Reader

CALLS = 64
"""About as many as a push of six files makes."""
ADB = r"""#!/bin/sh
here=${0%/*}
read -r n < "$here/count"
echo $((n + 1)) > "$here/count"
if [ -e "$here/answer.$n" ]; then
  if [ -e "$here/drains.$n" ]; then cat > /dev/null; fi
  cat "$here/answer.$n"
  if [ -e "$here/flood.$n" ]; then head -c "$(cat "$here/flood.$n")" /dev/zero; fi
  if [ -e "$here/error.$n" ]; then cat "$here/answer.$n" >&2; fi
  if [ -e "$here/code.$n" ]; then exit "$(cat "$here/code.$n")"; fi
  exit 0
fi
if [ "$1" = devices ]; then printf 'List of devices attached\nSERIAL\tdevice\n\n'; exit 0; fi
shift 2
if [ "$1" = install ]; then echo Success; exit 0; fi
shift 2
moved="s#/data/local/tmp#$here/disk#g;s#/proc/meminfo#$here/meminfo#g"
PATH="$here/bin:$PATH" exec sh -c "$(printf %s "$*" | sed "$moved")"
"""
"""The answers of a case in the order of the calls; where it has none, what a device says."""
MEMINFO = "MemTotal:       7577600 kB\nMemFree:          204800 kB\n"
DISK = "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/dm-5 112134680 25643100 9216000 23% /data\n"
ANSWERS = (
    *("List of devices attached\nSERIAL\tdevice\n", "SERIAL\tdevice\nOTHER\tdevice\n", "SERIAL\tunauthorized\n"),
    *("\tdevice\n", "-s\tdevice\n", "x;reboot\tdevice\n", "\x1b[2J\tdevice\n", "[/x]\t[bold]\n", "Pixel 8\n", "34\n"),
    *("arm64-v8a,x86_64\n", MEMINFO, DISK, "MemTotal:\n", "MemTotal: -1 kB\n", "MemTotal: " + "9" * 5000 + " kB\n"),
    *("none\n", "0\n", "14\n", "-1\n", "9" * 5000 + "\n", "\u00b2\n", "\u0661\u0662\n", "1_0\n", "0x10\n", "1e3\n", ""),
    *("\n", "\0", "\n\n\n", " ", hashlib.sha256(b"").hexdigest() + "  x\n", "a" * 64 + "\n", "x\n" * 10_000, "NaN\n"),
    *("/system/bin/sh: stat: not found\n", "Permission denied\n", "a " * 100_000, "Success\n", "\u202e\x07\x9b2J\n"),
)


def phone(folder: Path) -> None:
    """A bundle of a few small files and a device with room for it."""
    bundle = folder / "bundle"
    (folder / "adb" / "disk").mkdir(parents=True)
    (folder / "adb" / "bin").mkdir()
    bundle.mkdir()
    write_short_bundle(bundle)
    cases = "ro.product.model) echo Pixel;; ro.build.version.sdk) echo 34;; ro.product.cpu.abilist) echo arm64-v8a;;"
    for name, text in (
        ("adb", ADB),
        ("bin/getprop", f'#!/bin/sh\ncase "$1" in {cases} esac\n'),
        ("bin/df", f"#!/bin/sh\ncat <<'END'\n{DISK}END\n"),
        ("meminfo", MEMINFO),
    ):
        (folder / "adb" / name).write_text(text)
        (folder / "adb" / name).chmod(0o755)


def phone_cases(folder: Path) -> st.SearchStrategy[Case]:
    texts = [a.encode() for a in ANSWERS]
    answers = st.sampled_from(texts) | damaged(texts)

    @st.composite
    def cases(draw: st.DrawFn) -> Case:
        case = {"adb/count": Entry(data=b"0\n")}
        for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
            call = draw(st.integers(0, CALLS))
            case[f"adb/answer.{call}"] = Entry(data=draw(answers))
            if draw(st.integers(0, 2)) == 2:
                case[f"adb/code.{call}"] = Entry(data=draw(st.sampled_from((b"1", b"127", b"255"))))
            if draw(st.booleans()):
                case[f"adb/error.{call}"] = Entry()
            if draw(st.booleans()):
                case[f"adb/drains.{call}"] = Entry()
            if draw(st.integers(0, 30)) == 30:
                case[f"adb/flood.{call}"] = Entry(data=draw(st.sampled_from((b"1000000", b"700000000"))))
        return case

    return cases()


def open_phone() -> Callable[[Path], object]:
    """``g3n-push`` itself: what adb says must end in one line, with no traceback and no control of the terminal."""
    from click.testing import CliRunner

    from g3n_compiler.cli.push import main

    def read(folder: Path) -> None:
        adb = ["--adb", str(folder / "adb" / "adb")]
        result = CliRunner().invoke(main, [str(folder / "bundle"), *adb], catch_exceptions=False)
        if any(ord(c) < 32 and c not in "\n\t\r" for c in result.output):
            raise AssertionError(f"what a device says controls the terminal: {result.output[-300:]!r}")
        if result.exit_code:
            raise Refused(result.output)

    return read


class Refused(Exception):
    """The command said why and ended with an exit code of ours."""


READERS = (Reader("adb answers", phone, phone_cases, open_phone),)
