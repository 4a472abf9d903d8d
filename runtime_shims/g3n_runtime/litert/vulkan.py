"""The Vulkan driver under LiteRT's GPU delegate: the machine's own, or the software one of ``make gpu-kit``.

The delegate loads ``libvulkan.so.1`` by that name, and that library finds drivers by their descriptions, JSON files in
folders of the system or those that the environment names. The kit (SwiftShader) is a folder with both. It runs every
operator on the CPU, in float32 whatever is asked for, so it shows whether results are right, and no speed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from g3n_runtime.errors import EngineError

KIT_VARIABLE = "G3N_GPU_KIT"
"""In the environment: the kit's folder, to be used whatever else there is."""
KIT = Path(__file__).resolve().parents[3] / "build" / "gpu"
"""Where ``make gpu-kit`` puts it: in our checkout, never in the folder that a user happens to be in, for it is code."""
LOADER = "libvulkan.so.1"
DESCRIPTION = "vk_swiftshader_icd.json"
CHOSEN = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
"""Variables by which users choose drivers themselves; loaders before 1.3.207 know only the second."""
SYSTEM_FOLDERS = (
    Path("/usr/share/vulkan/icd.d"),
    Path("/usr/local/share/vulkan/icd.d"),
    Path("/etc/vulkan/icd.d"),
)


@dataclass(frozen=True)
class Driver:
    """A driver that was found; :meth:`use` it before the delegate is loaded."""

    name: str
    loader: str | None = LOADER
    """The library to load; ``None`` where the system has another interface to its GPU."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the environment must say."""

    def use(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Let the delegate, when it is loaded, find this driver; the delegate can be told of it in no other way.

        Raises:
            EngineError: the loader cannot be loaded.
        """
        environ.update(self.settings)
        if self.loader is not None:
            try:
                ctypes.CDLL(self.loader, mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise EngineError(
                    f"{self.loader} cannot be loaded ({error}): make the kit again with make gpu-kit"
                ) from None


def find_driver(
    environ: Mapping[str, str] = os.environ, platform: str = sys.platform, kit: Path | None = None
) -> Driver | None:
    """The driver to run the GPU delegate on: the one that the user names, else the system's, else the kit's.

    Raises:
        EngineError: ``G3N_GPU_KIT`` names a folder that is no kit.
    """
    if platform != "linux":
        return Driver("the system's GPU", None)
    if named := environ.get(KIT_VARIABLE):
        if (found := _kit(Path(named))) is None:
            raise EngineError(
                f"{KIT_VARIABLE} names {named}, which lacks {LOADER} or {DESCRIPTION}: make the kit with make gpu-kit"
            )
        return found
    if any(environ.get(variable) for variable in CHOSEN):
        return Driver("the Vulkan driver of the environment")
    if any(any(folder.glob("*.json")) for folder in SYSTEM_FOLDERS):
        return Driver("the system's Vulkan driver")
    return _kit(KIT if kit is None else kit)


def require_driver() -> Driver:
    """As :func:`find_driver`.

    Raises:
        EngineError: there is none.
    """
    if (driver := find_driver()) is None:
        raise EngineError(
            "this machine has no Vulkan driver for the GPU: install your graphics card's, or make gpu-kit in "
            "the checkout of g3n"
        )
    return driver


def _kit(folder: Path) -> Driver | None:
    loader, description = folder / LOADER, folder / DESCRIPTION
    if not loader.is_file() or not description.is_file():
        return None
    files = str(description.absolute())
    return Driver("SwiftShader (software)", str(loader.absolute()), dict.fromkeys(CHOSEN, files))
