"""The report's picture of what runs where: a lane for each device and delegate, a box for each subgraph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from g3n_compiler.lower.subgraphs import TOWER_OF

DELEGATES = {"xnnpack": "XNNPACK", "gpu": "", "mmap": "rows read from a mapped file"}
"""How a lane's delegate is called beside its device; the GPU's is called as its device."""
DEVICES = {"cpu": "CPU", "accelerator": "Accelerator"}
PROCESSORS = {"gpu": "GPU"}
"""What an accelerator is called, by its delegate."""
TOOLS = {"xnnpack": "through XNNPACK", "mmap": "by reading its rows"}


@dataclass(frozen=True)
class Box:
    """One subgraph; ``share`` is its part in percent of the runtime's bytes."""

    name: str
    nbytes: int
    share: float
    delegation: dict[str, Any] | None
    error: float | None
    compared: str
    tool: str
    """What ran it in the comparison."""
    elsewhere: bool
    """Whether that is something else than what runs it on the device."""


@dataclass(frozen=True)
class Lane:
    """What one delegate runs on one device."""

    device: str
    delegate: str
    accelerator: bool
    boxes: list[Box]

    @property
    def not_run(self) -> bool:
        """Whether something else ran its subgraphs when they were compared."""
        return any(box.elsewhere for box in self.boxes)


def lanes(manifest: dict[str, Any]) -> dict[str, list[Lane]]:
    """The lanes of each runtime, accelerators first."""
    found: dict[str, dict[tuple[str, str], Lane]] = {}
    totals: dict[str, int] = {}
    for part in manifest["subgraphs"]:
        totals[part["runtime"]] = totals.get(part["runtime"], 0) + part["bytes"]
    for part in manifest["subgraphs"]:
        device, delegate = part["device"], part["backend"]
        own = found.setdefault(part["runtime"], {})
        lane = own.setdefault(
            (device, delegate),
            Lane(_device(device, delegate), _name(DELEGATES, delegate), device == "accelerator", []),
        )
        place = manifest["target"]["placement"].get(part["name"], {})
        tool = place.get("verified_by", delegate)
        compared = _compared(part, tool, place.get("verified_on"))
        share = 100 * part["bytes"] / max(totals[part["runtime"]], 1)
        lane.boxes.append(
            Box(
                part["name"],
                part["bytes"],
                share,
                part["delegation"],
                part["parity"],
                compared,
                _name(DELEGATES, tool),
                tool != delegate,
            )
        )
    return {
        runtime: sorted(of_runtime.values(), key=lambda lane: not lane.accelerator)
        for runtime, of_runtime in found.items()
    }


def not_run(manifest: dict[str, Any]) -> list[str]:
    """A sentence for each processor that the target names and nothing was run on, and for what it ran in part."""
    unproven: dict[tuple[str, str], list[str]] = {}
    present = {part["name"] for part in manifest["subgraphs"]}
    for name, place in manifest["target"]["placement"].items():
        if name in present and place["delegate"] != place["verified_by"]:
            processor = _device(place["device"], place["delegate"])
            unproven.setdefault((processor, place["verified_by"]), []).append(name)
    return [
        f"The {processor} was not run. On the device, {_listed(names)} would run there; here the same artifact was "
        f"compared with the reference on the CPU of the machine that compiled it, {TOOLS.get(tool, 'through ' + tool)},"
        f" and its operators were looked up in the list of those that the {processor} takes. To have it run, "
        "compile where there is a Vulkan driver; make gpu-kit brings one in software, see docs/gpu.md."
        for (processor, tool), names in unproven.items()
    ] + [
        f"Of {name} the {_device(place['device'], place['delegate'])} ran a part: {place['verified_part']}. All of it "
        "was compared with the reference on the CPU."
        for name, place in manifest["target"]["placement"].items()
        if name in present and "verified_part" in place
    ]


def _compared(part: dict[str, Any], tool: str, ran_on: str | None) -> str:
    """Where a subgraph was compared, and through what."""
    if ran_on is not None:
        return f"Compared on the {PROCESSORS.get(tool, tool)} ({ran_on}) and on the CPU{_as_part(part)}"
    return f"Compared on the CPU{_as_part(part)}, {TOOLS.get(tool, 'through ' + tool)}"


def _as_part(part: dict[str, Any]) -> str:
    """What a subgraph without a comparison of its own was compared as a part of."""
    tower = TOWER_OF.get(part["name"]) if part["parity"] is None else None
    return f" as a part of the {tower} tower" if tower else ""


def _device(device: str, delegate: str) -> str:
    return PROCESSORS.get(delegate, DEVICES["accelerator"]) if device == "accelerator" else _name(DEVICES, device)


def _name(names: dict[str, str], key: str) -> str:
    return names.get(key, key)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
