"""Recognise quantised checkpoints by what their savers leave in a file, before a tensor is missed or misread.

Sources: the quantizers of ``transformers`` (``transformers/quantizers``), MLX's and HQQ's savers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from g3n_compiler.checkpoint.remark import Remark
from g3n_compiler.checkpoint.safetensors import TensorEntry
from g3n_compiler.errors import QuantisedCheckpoint

SECTIONS = ("quantization_config", "quantization", "compression_config")
REMEDY = "pass the 16-bit checkpoint that it was made from; g3n quantises it itself"
METHODS = {
    "bitsandbytes": "bitsandbytes", "gptq": "GPTQ", "awq": "AWQ", "aqlm": "AQLM", "vptq": "VPTQ", "quanto": "quanto",
    "eetq": "EETQ", "higgs": "HIGGS", "hqq": "HQQ", "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "FBGEMM's FP8", "torchao": "torchao", "bitnet": "BitNet", "spqr": "SpQR", "fp8": "FP8",
    "quark": "Quark", "fp_quant": "FP-Quant", "auto-round": "AutoRound", "mxfp4": "MXFP4", "nvfp4": "NVFP4",
    "mxfp8": "MXFP8", "metal": "Metal", "fouroversix": "Four over Six", "sinq": "SINQ", "gemma": "Gemma's QAT, packed",
    "modelopt": "ModelOpt",
}  # fmt: skip
"""Values of ``quant_method``, as people call them."""


class Mark(NamedTuple):
    """The end of a tensor's name that only one saver writes, or a few of them."""

    ending: str
    saver: str


MARKS = (
    Mark(".quant_state.bitsandbytes__nf4", "bitsandbytes, 4 bits"),
    Mark(".quant_state.bitsandbytes__fp4", "bitsandbytes, 4 bits"),
    Mark(".weight.absmax", "bitsandbytes, 4 bits"),
    Mark(".weight.quant_map", "bitsandbytes, 4 bits"),
    Mark(".SCB", "bitsandbytes, 8 bits"),
    Mark(".weight_format", "bitsandbytes, 8 bits"),
    Mark(".g_idx", "GPTQ"),
    Mark(".qweight", "GPTQ or AWQ"),
    Mark(".qzeros", "GPTQ or AWQ"),
    Mark(".input_activation_scale", "Gemma's QAT, packed"),
    Mark(".output_activation_scale", "Gemma's QAT, packed"),
    Mark(".embedding_quantized", "Gemma's QAT, packed"),
    Mark(".weight_packed", "compressed-tensors"),
    Mark(".weight_shape", "compressed-tensors"),
    Mark(".weight_zero_point", "compressed-tensors"),
    Mark(".weight_global_scale", "compressed-tensors"),
    Mark(".weight_scale_inv", "FP8"),
    Mark(".weight_scale_2", "ModelOpt"),
    Mark(".weight_scale", "FP8 or another format with weight_scale"),
    Mark(".weight_scales", "EETQ"),
    Mark(".W_q", "HQQ"),
    Mark(".weight._data", "quanto"),
    Mark(".weight._scale", "quanto"),
    Mark(".weight:qdata", "torchao"),
    Mark("_weight_qdata", "torchao"),
    Mark(".codebooks", "AQLM"),
    Mark(".centroids.weight", "VPTQ"),
    Mark(".dense_weights", "SpQR"),
    Mark("_blocks", "MXFP4"),
    Mark(".qbiases", "Metal"),
    Mark(".dqweight", "FP-Quant"),
)  # fmt: skip


def refuse_quantised(entries: Mapping[str, TensorEntry], config: Mapping[str, Any], remark: Remark) -> None:
    """Raise :class:`QuantisedCheckpoint` if the tensors are quantised; remark on settings that only say so."""
    section = next((name for name in SECTIONS if isinstance(config.get(name), dict) and config[name]), None)
    named = None if section is None else _named(config[section])
    found = _marked(entries)
    if found is None and section is not None:
        # a saver that is not in the table, or that leaves nothing but integers in the weights' own names
        found = next(((n, "an unknown method") for n in sorted(entries) if _packed(entries[n])), None)
    elif found is None:
        found = next(((n, "FP8") for n in sorted(entries) if entries[n].kind.startswith(("F8_", "F6_", "F4"))), None)
    if found is not None:
        tensor, saver = found
        raise QuantisedCheckpoint(
            f"the checkpoint is quantised with {named or saver} (tensor {tensor!r} is {entries[tensor].kind}): {REMEDY}"
        )
    if section is not None:
        remark(
            f"config.json's {section} says that the model is quantised with {named or 'an unknown method'}, but every "
            "weight is plain floats: it is ignored"
        )


def _marked(entries: Mapping[str, TensorEntry]) -> tuple[str, str] | None:
    """A tensor that only a quantised checkpoint has, and the saver that writes it."""
    endings = {mark.ending: mark.saver for mark in MARKS}
    longest = sorted(endings, key=len, reverse=True)
    best: tuple[int, str, str] | None = None
    order = [mark.ending for mark in MARKS]
    for name in sorted(entries):
        ending = next((e for e in longest if name.endswith(e)), None)
        if ending is not None and (best is None or order.index(ending) < best[0]):
            best = order.index(ending), name, endings[ending]
    if best is not None:
        return best[1], best[2]
    for name in sorted(entries):
        base = name.removesuffix(".weight")
        if name.endswith(".weight") and entries[name].kind == "U32" and f"{base}.scales" in entries:
            return name, "MLX"
    return None


def _packed(entry: TensorEntry) -> bool:
    """Whether a tensor is a weight of something else than floats; counters and position ids have one dimension."""
    return not entry.is_float and len(entry.shape) > 1 and entry.kind not in ("I64", "BOOL")


def _named(section: Mapping[str, Any]) -> str | None:
    """The method that a section of ``config.json`` names."""
    method = section.get("quant_method")
    if not isinstance(method, str):
        bits = section.get("bits")
        return "MLX" if isinstance(bits, int) and "group_size" in section else None
    name = METHODS.get(method, repr(method[:40]))
    bits = next((n for n in (4, 8) if section.get(f"load_in_{n}bit") is True), None)
    return name if bits is None else f"{name}, {bits} bits"
