"""All readers that the fuzz test knows, by name."""

from __future__ import annotations

from tests.fuzz import readers_bundle, readers_checkpoint, readers_device, readers_media
from tests.fuzz.reader import Reader

READERS: dict[str, Reader] = {
    reader.name: reader
    for module in (readers_checkpoint, readers_media, readers_bundle, readers_device)
    for reader in module.READERS
}
