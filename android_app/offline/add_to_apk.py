"""Adds code and native libraries to an APK so that apksigner keeps them aligned: ``add_to_apk.py APK FOLDER``.

Libraries are mapped out of the APK, and newer phones have pages of 16 KB. apksigner moves entries; it keeps what is
aligned so, to the multiple that an entry's extra field 0xd935 names, else to 4 KB (com.android.apksig.ApkSigner).
"""

import struct
import sys
import zipfile
from pathlib import Path

PAGE = 16384
_DATE = (1981, 1, 1, 1, 1, 2)
_LOCAL_HEADER = 30


def main(apk: Path, folder: Path) -> None:
    """Append every file below ``folder``: ``.so`` stored and aligned, the rest deflated; same input, same bytes."""
    with zipfile.ZipFile(apk, "a") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            if path.suffix == ".so":
                entry.compress_type = zipfile.ZIP_STORED
                entry.extra = _alignment(archive.start_dir + _LOCAL_HEADER + len(entry.filename))
            archive.writestr(entry, path.read_bytes())


def _alignment(offset: int) -> bytes:
    """The extra field that begins at ``offset`` and after which a page begins."""
    padding = -(offset + 6) % PAGE
    return struct.pack("<HHH", 0xD935, 2 + padding, PAGE) + bytes(padding)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
