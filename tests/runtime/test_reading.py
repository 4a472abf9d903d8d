"""Whatever a file is or holds, reading it gives its value or the caller's own error, at once."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g3n_runtime.errors import BundleError, G3nError, MediaError
from g3n_runtime.reading import MAX_JSON_DEPTH, open_regular, parse_json, read_bytes, read_json_object, read_text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("[" * 100_000, "nested", id="beyond the stack"),
        pytest.param('{"a":' * 65 + "1" + "}" * 65, f"deeper than {MAX_JSON_DEPTH}", id="beyond the limit"),
        pytest.param("1" * 5000, "4300 digits", id="a long integer"),
        pytest.param('{"a": NaN}', "NaN", id="NaN"),
        pytest.param("[-Infinity]", "-Infinity", id="infinity"),
        pytest.param("[1e999]", "too large", id="a float beyond the range"),
        pytest.param(r'"\ud800"', "surrogates", id="half a character"),
        pytest.param(b"\xff{}", "UTF-8", id="no UTF-8"),
        pytest.param("{", "x is not JSON", id="cut off"),
        pytest.param("", "x is not JSON", id="empty"),
    ],
)
def test_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        parse_json(text, "x", BundleError)


def test_kept() -> None:
    assert parse_json(r'["\ud83d\ude00", 1e3, {"a": null}]', "x", BundleError) == ["😀", 1000.0, {"a": None}]
    assert parse_json("[" * 64 + "]" * 64, "x", BundleError)


def test_a_reader_may_ask_for_more_or_for_less() -> None:
    assert parse_json("[1e999, -Infinity]", "x", BundleError, infinite=True) == [math.inf, -math.inf]
    with pytest.raises(BundleError, match="'a' appears twice"):
        parse_json('[{"b": {"a": 1, "a": 1}}]', "x", BundleError, unique=True)
    assert parse_json('{"a": 1, "a": 2}', "x", BundleError) == {"a": 2}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text_is_read_or_refused(text: bytes | str) -> None:
    try:
        value = parse_json(text, "x", BundleError)
    except BundleError:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    ("name", "words"),
    [("folder", "a folder"), ("pipe", "a pipe"), ("/dev/zero", "a device"), ("a\0b", "file name"), ("x" * 300, "long")],
)
def test_what_is_no_file(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MediaError, match=words):
        open_regular(tmp_path / name, MediaError)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that is regular and cannot be read")
def test_a_file_that_cannot_be_read_is_refused_when_it_is_opened() -> None:
    with pytest.raises(MediaError, match=r"/proc/self/mem cannot be read"):
        open_regular(Path("/proc/self/mem"), MediaError)


def test_missing_may_have_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="missing"):
        read_bytes(tmp_path / "absent", 10, MediaError, BundleError)


def test_sizes_are_bounded_also_where_the_system_does_not_tell_them(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 11)
    for path in (tmp_path / "large", Path("/proc/self/status")):
        with pytest.raises(G3nError, match="at most 10"):
            read_bytes(path, 10, BundleError)


def test_text_and_objects(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\r\nb")
    assert read_text(path, 10, BundleError) == "a\r\nb"
    path.write_bytes(b"[1]")
    with pytest.raises(BundleError, match="a JSON list, expected an object"):
        read_json_object(path, BundleError)
