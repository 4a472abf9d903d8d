"""What else lies in the folder: processors, adapters, and files that nobody reads."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.hub_id import hub_origin
from g3n_compiler.checkpoint.lora import CONFIG as ADAPTER
from g3n_compiler.doctor.findings import Findings
from g3n_compiler.errors import CheckpointError

PROCESSORS = ("processor_config.json", "preprocessor_config.json")
NOT_READ = {
    ".bin": "pickles", ".pt": "pickles", ".pth": "pickles", ".pkl": "pickles", ".ckpt": "pickles", ".py": "code",
    ".gguf": "other formats", ".onnx": "other formats", ".litertlm": "other formats", ".task": "other formats",
    ".tflite": "other formats", ".msgpack": "other formats", ".h5": "other formats",
}  # fmt: skip
MOST_FILES = 10_000
"""Of a folder that are looked at."""


def tell_files(findings: Findings, directory: Path) -> None:
    """All facts of this page."""
    if (origin := hub_origin(directory)) is not None:
        findings.tell("what it is", "from the hub", str(origin))
    found = [name for name in PROCESSORS if present(directory / name)]
    findings.tell("processors", "files", ", ".join(found) or "none: Gemma 3n's own settings are used")
    _tell_adapters(findings, directory)
    unread: dict[str, list[str]] = {}
    for path in islice(sorted(directory.iterdir()), MOST_FILES):
        if (kind := NOT_READ.get(path.suffix)) is not None:
            unread.setdefault(kind, []).append(path.name)
    for kind, names in unread.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        findings.notes.append(f"{kind} are not read: {', '.join(names[:3])}{more}")


def _tell_adapters(findings: Findings, directory: Path) -> None:
    folders = [p for p in islice(sorted(directory.iterdir()), MOST_FILES) if p.is_dir()]
    here = [folder for folder in (directory, *folders) if present(folder / ADAPTER)]
    for folder in here:
        try:
            config = read_json(folder / ADAPTER)
        except CheckpointError as error:
            findings.tell("adapters", folder.name, str(error))
            continue
        what = f"{config.get('peft_type')} of rank {config.get('r')}, for {config.get('base_model_name_or_path')}"
        findings.tell("adapters", "in the folder itself" if folder == directory else folder.name, what[:200])
    if here and present(directory / "config.json"):
        findings.notes.append(f"an adapter is merged only where it is named: --lora {here[0]}")
