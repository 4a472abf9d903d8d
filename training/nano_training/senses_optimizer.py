"""How the weights are updated when nano's towers are trained, and the state from which a run resumes or starts."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nano_training.heads import TOWERS, Heads
from nano_training.senses import Senses

_CLIP = 1.0
_FULL_RATE_FAN_IN = 128
_WARMUP_STEPS = 50


@dataclass
class Progress:
    """Where a resumed run continues; ``seconds`` is the processor time spent so far."""

    step: int = 0
    seconds: float = 0.0


def learning_rate(fraction: float, step: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth; ``fraction`` is that of the time budget."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    return peak * min(1.0, (step + 1) / _WARMUP_STEPS) * (0.02 + 0.98 * cosine)


def trained(senses: Senses) -> dict[str, nn.Parameter]:
    """The weights that training may change, by their names in the library's model."""
    return {name: p for name, p in senses.model.named_parameters() if p.requires_grad}


def make_optimizer(senses: Senses, heads: Heads, decay: float, text_share: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only; :func:`update` sets each group's rate, times its ``share``.

    One Adam step changes an output by the rate times the fan-in, so wide layers take smaller steps. The text model,
    which is already trained, takes ``text_share`` of them.
    """
    text = {id(p) for p in senses.text.values()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in [*trained(senses).values(), *heads.parameters()]:
        share = min(1.0, _FULL_RATE_FAN_IN / p[0].numel()) if p.dim() >= 2 else 1.0
        own = (share * text_share if id(p) in text else share, decay if p.dim() >= 2 else 0.0)
        groups.setdefault(own, []).append(p)
    settings = [{"params": held, "share": share, "weight_decay": own} for (share, own), held in groups.items()]
    return torch.optim.AdamW(settings, betas=(0.9, 0.98), eps=1e-8)


def update(optimizer: torch.optim.AdamW, rate: float) -> None:
    """One step along the gradients, which it clips and then clears."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], _CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def save_state(out: Path, senses: Senses, heads: Heads, optimizer: torch.optim.AdamW, progress: Progress) -> None:
    """Write ``out/state.pt`` for :func:`restore`."""
    state = {
        "weights": {name: p.detach() for name, p in trained(senses).items()},
        "heads": heads.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": vars(progress),
    }
    torch.save(state, out / "state.pt.partial")
    (out / "state.pt.partial").replace(out / "state.pt")


def restore(out: Path, senses: Senses, heads: Heads, optimizer: torch.optim.AdamW) -> Progress:
    """Load the state that :func:`save_state` wrote."""
    state = torch.load(out / "state.pt", weights_only=True)
    with torch.no_grad():
        for name, p in trained(senses).items():
            p.copy_(state["weights"][name])
    heads.load_state_dict(state["heads"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def warm_up(state_file: Path, senses: Senses, heads: Heads) -> None:
    """Take the weights of another run's state where name and shape agree, but not its optimizer and progress.

    A run with one sense leaves the other's classifiers at their initial values; those are not taken.
    """
    state = torch.load(state_file, weights_only=True)
    known = {part for part in TOWERS.values() if any(part in name for name in state["weights"])}
    learnt = {name: p for name, p in heads.named_parameters() if TOWERS[name.split(".")[0]] in known}
    with torch.no_grad():
        for own, found in ((trained(senses), state["weights"]), (learnt, state["heads"])):
            for name, p in own.items():
                if name in found and found[name].shape == p.shape:
                    p.copy_(found[name])
