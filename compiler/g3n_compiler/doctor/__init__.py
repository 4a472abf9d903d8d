"""What a checkpoint's folder is, and whether it would compile, found without loading a toolchain."""

from g3n_compiler.doctor.examine import examine
from g3n_compiler.doctor.findings import Check, Fact, Findings

__all__ = ["Check", "Fact", "Findings", "examine"]
