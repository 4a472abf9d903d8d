"""The stand-in model under a checkpoint's tokenizer and template."""

from __future__ import annotations

from pathlib import Path

from g3n_compiler.lower.litert.stand_in import FILES, FOLDER, make_stand_in


def test_its_files_are_what_the_pinned_packages_make(tmp_path: Path) -> None:
    make_stand_in(tmp_path)
    for name in FILES.values():
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), (
            f"{name}: make it again with g3n_compiler.lower.litert.stand_in.make_stand_in"
        )
