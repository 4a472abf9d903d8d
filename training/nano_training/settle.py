"""Data-dependent initialisation, for towers whose norms do not subtract the mean and whose layers have no biases.

Pictures are mostly paper and speech is mostly one level of noise. With random weights that constant part passes every
``RmsNorm2d`` and the cumulative group norm, and differences between inputs are only 3 to 11% of the mean square of the
soft tokens, too little to learn from. Here each layer, in the order of the forward pass, loses most of its response to
the mean input and gets unit variance, as in "All you need is a good init" (Mishkin and Matas, 2016).
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

KEEP = 0.25
"""Share of each layer's response to its mean input that remains: absolute colours and loudness are signals too."""

_Layer = nn.Conv1d | nn.Conv2d | nn.Linear


def settle(parts: Iterable[nn.Module], run: Callable[[], object], keep: float = KEEP) -> int:
    """Rewrite the kernels and matrices of ``parts`` while ``run`` passes a batch through them; returns how many there
    were.

    ``run`` must call each layer with a whole batch. Depthwise kernels are only scaled: without their response to the
    mean they would not respond to anything smooth.
    """
    settled: set[_Layer] = set()

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(layer, _Layer) and layer not in settled:
            settled.add(layer)
            _settle_layer(layer, inputs[0], keep)

    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, _Layer)]
    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return len(settled)


def _channel_means(x: Tensor, axis: int) -> Tensor:
    return x.transpose(0, axis).flatten(1).mean(1)


def _settle_layer(layer: _Layer, x: Tensor, keep: float) -> None:
    weight, axis = layer.weight, -1 if isinstance(layer, nn.Linear) else 1
    depthwise = not isinstance(layer, nn.Linear) and layer.groups > 1
    if layer.bias is None and not depthwise:
        mean = _channel_means(x, axis).view(1, -1, *[1] * (weight.dim() - 2)).expand_as(weight[:1]).flatten()
        rows = weight.view(len(weight), -1)
        rows -= (1 - keep) * torch.outer(rows @ mean, mean) / mean.square().sum().clamp_min(1e-12)
    output = layer(x)
    if layer.bias is not None:
        layer.bias -= (1 - keep) * _channel_means(output, axis)
    spread = output.transpose(0, axis).flatten(1).var(1).mean().sqrt().clamp_min(1e-6)
    weight /= spread
    if layer.bias is not None:
        layer.bias /= spread
