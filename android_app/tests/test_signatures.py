"""What the app calls of libraries that are not built here is what their sources declare, see ``offline/signatures``."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from android_app.tests.conftest import OFFLINE, ROOT

SIGNATURES = OFFLINE / "signatures"
STAND_IN = ROOT / "android_app/host/src/main/kotlin/com/google/ai/edge/litertlm/LiteRtLm.kt"
"""The declarations that the app is compiled against where there is no Google's Maven."""
CALLER = ROOT / "android_app/app/src/main/kotlin/org/g3n/app/LiteRtLmEngine.kt"


class Parameter(NamedTuple):
    name: str
    type: str
    has_default: bool


class Declaration(NamedTuple):
    name: str
    parameters: list[Parameter]
    result: str | None


def listed(name: str) -> list[str]:
    lines = (SIGNATURES / name).read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def parameters(text: str) -> list[Parameter]:
    out = []
    # A comma inside a type's angle brackets parts nothing.
    for part in filter(None, (part.strip() for part in re.split(r",(?![^<]*>)", text))):
        name, rest = re.sub(r"^(?:internal |private )?(?:val |var )?", "", part).split(":", 1)
        kind, default, _ = rest.partition("=")
        out.append(Parameter(name.strip(), kind.strip(), bool(default)))
    return out


def test_the_stand_in_for_litert_lm_declares_what_the_library_does() -> None:
    real = {}
    for line in listed("litertlm.txt"):
        name, inner, result = re.fullmatch(r"([\w.]+)\((.*)\)(?:: (.+))?", line).groups()  # type: ignore[union-attr]
        real[name] = Declaration(name, parameters(inner), result)
    caller = CALLER.read_text("utf-8")
    ours = list(declarations(STAND_IN.read_text("utf-8")))
    assert {declaration.name for declaration in ours} == set(real)
    for declaration in ours:
        theirs = real[declaration.name]
        names = [parameter.name for parameter in theirs.parameters]
        for at, parameter in enumerate(declaration.parameters):
            # Without a name an argument is taken by its place.
            place = names.index(parameter.name) if f"{parameter.name} = " in caller else at
            assert parameter.type == theirs.parameters[place].type, f"{declaration.name}: {parameter.name}"
            assert theirs.parameters[place].has_default or not parameter.has_default
        given = {parameter.name for parameter in declaration.parameters}
        assert all(p.has_default or p.name in given or len(names) == len(given) for p in theirs.parameters)
        assert declaration.result in (None, theirs.result), declaration.name


def declarations(kotlin: str) -> Iterator[Declaration]:
    """The public constructors and functions of a Kotlin file that is indented by four spaces."""
    kotlin = re.sub(r"\(\n\s+(.*?),?\n\s*\)", lambda m: f"({' '.join(m[1].split())})", kotlin, flags=re.S)
    owners: list[tuple[int, str]] = []
    for line in kotlin.splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        if kind := re.match(r"\s*(?:(?:data|sealed) )*(class|interface|companion object) ?(.*)", line):
            owners = [owner for owner in owners if owner[0] < depth]
            if kind[1] == "companion object":
                continue
            name, constructor = re.match(r"(\w+)(.*)", kind[2]).groups()  # type: ignore[union-attr]
            owners.append((depth, name))
            public = re.match(r"(?:\((.*?)\))?(?: :| \{|$)", constructor)
            # A sealed class cannot be made, nor one whose constructor is not public.
            if "sealed" not in line and kind[1] == "class" and public is not None:
                yield Declaration(".".join(owner for _, owner in owners), parameters(public[1] or ""), None)
        elif function := re.match(r"\s*(?:override )?fun (\w+)\(([^()]*)\)(?:: (.+?))?(?: =.*| \{)?$", line):
            owner = ".".join(name for at, name in owners if at < depth)
            if function[1] != "toJson":
                yield Declaration(f"{owner}.{function[1]}", parameters(function[2]), function[3])


def test_what_the_app_calls_of_executorch_is_in_its_classes(android: Path) -> None:
    known = {tuple(line.split()) for line in listed("executorch-android.txt")}
    called = {
        member
        for data in classes(android / "app.jar")
        for member in ClassFile(data).references()
        if member[0].startswith("org/pytorch/")
    }
    assert called and not called - known
    jar = android / "parts" / "react-native-executorch" / "android" / "libs" / "classes.jar"
    assert not known - {member for data in classes(jar) for member in ClassFile(data).methods()}


def classes(jar: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(jar) as archive:
        yield from (archive.read(name) for name in archive.namelist() if name.endswith(".class"))


class ClassFile:
    """The constant pool of a class file and its methods (The Java Virtual Machine Specification, chapter 4)."""

    _SIZES: ClassVar = {
        3: 4,
        4: 4,
        5: 8,
        6: 8,
        7: 2,
        8: 2,
        9: 4,
        10: 4,
        11: 4,
        12: 4,
        15: 3,
        16: 2,
        17: 4,
        18: 4,
        19: 2,
        20: 2,
    }

    def __init__(self, data: bytes) -> None:
        self._data, self._pool = data, dict[int, tuple[int, bytes]]()
        (count,) = struct.unpack_from(">H", data, 8)
        at, index = 10, 1
        while index < count:
            tag = data[at]
            size = 2 + struct.unpack_from(">H", data, at + 1)[0] if tag == 1 else self._SIZES[tag]
            self._pool[index] = tag, data[at + 1 : at + 1 + size]
            at += 1 + size
            index += 2 if tag in (5, 6) else 1  # long and double take two places
        self._end = at

    def references(self) -> Iterator[tuple[str, str, str]]:
        """Class, name and descriptor of every member of a class that is referred to."""
        for tag, value in self._pool.values():
            if tag in (9, 10, 11):
                owner, named = struct.unpack(">HH", value)
                name, descriptor = struct.unpack(">HH", self._pool[named][1])
                yield self._name(owner), self._text(name), self._text(descriptor)

    def methods(self) -> Iterator[tuple[str, str, str]]:
        """Class, name and descriptor of every method that the class declares."""
        _, this, _, interfaces = struct.unpack_from(">HHHH", self._data, self._end)
        at = self._end + 8 + 2 * interfaces
        for kind in ("field", "method"):
            (count,) = struct.unpack_from(">H", self._data, at)
            at += 2
            for _ in range(count):
                _, name, descriptor, attributes = struct.unpack_from(">HHHH", self._data, at)
                at += 8
                for _ in range(attributes):
                    at += 6 + struct.unpack_from(">I", self._data, at + 2)[0]
                if kind == "method":
                    yield self._name(this), self._text(name), self._text(descriptor)

    def _text(self, index: int) -> str:
        value = self._pool[index][1]
        return value[2:].decode("utf-8", "replace")

    def _name(self, index: int) -> str:
        return self._text(struct.unpack(">H", self._pool[index][1])[0])
