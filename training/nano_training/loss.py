"""Cross entropy of softcapped logits without holding all logits: the head is a large part of such a small model."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

SOFTCAP = 30.0
_CHUNK = 512


class _SoftcappedCrossEntropy(Function):
    """Gradients are computed together with the loss, one chunk of tokens at a time, and only scaled in ``backward``."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)
        total = hidden.new_zeros(())
        for at in range(0, hidden.shape[0], _CHUNK):
            part, wanted = hidden[at : at + _CHUNK], targets[at : at + _CHUNK, None]
            capped = torch.mm(part, head.t()).div_(SOFTCAP).tanh_()
            slope = torch.addcmul(torch.ones(()), capped, capped, value=-1.0)
            log_probabilities = capped.mul_(SOFTCAP).log_softmax(-1)
            total -= log_probabilities.gather(1, wanted).sum()
            grad = log_probabilities.exp_()
            grad.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=grad.dtype))
            grad.mul_(slope)
            torch.mm(grad, head, out=grad_hidden[at : at + _CHUNK])
            grad_head.addmm_(grad.t(), part)
        ctx.save_for_backward(grad_hidden.div_(hidden.shape[0]), grad_head.div_(hidden.shape[0]))
        return total / hidden.shape[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * grads[0], grad_head * grads[0], None


def softcapped_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Mean loss in nats. ``hidden`` is (tokens, D), ``head`` (V, D), ``targets`` (tokens,)."""
    loss: Tensor = _SoftcappedCrossEntropy.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return loss
