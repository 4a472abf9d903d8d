"""Rewrites as data, and how a tensor's rows are rewritten when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Rows = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Rewrite:
    """What is done to one tensor ``[N, K, ...]`` or ``[N]``; factors are powers of two, so that they lose no bit."""

    rows: Tensor | None = None
    """Factors ``[N]``."""
    columns: Tensor | None = None
    """Factors ``[K / repeats]``."""
    turned_rows: Tensor | None = None
    """Rotations ``[groups, D, D]`` of the rows, ``groups * D == N``: a group's rows become ``rotation @ rows``."""
    turned_columns: Tensor | None = None
    """Rotations ``[groups, D, D]`` of the columns: a group's columns become ``columns @ rotation.T``."""


@dataclass(frozen=True, eq=False)
class Rewrites:
    """The rewrites of a checkpoint, by the names of tensors within the text model, or that begin with a tower's."""

    tensors: Mapping[str, Rewrite]

    def read(self, name: str, rows: Rows | None, read: Callable[[Rows | None], Tensor]) -> Tensor:
        """Rows of tensor ``name``, rewritten; ``read`` gives them as they are.

        Args:
            rows: counted within the whole tensor; ``None`` for all of them.
        """
        rewrite = self.tensors.get(name)
        if rewrite is None:
            return read(rows)
        if rewrite.turned_rows is not None:
            return _turned_rows(rewrite.turned_rows, rows, read)
        value = read(rows)
        if rewrite.turned_columns is not None:
            groups, dim = rewrite.turned_columns.shape[:2]
            # A group at a time: a product with an axis of rows in front would copy the rotations for each row.
            parts = value.view(len(value), groups, dim).transpose(0, 1).double() @ rewrite.turned_columns.mT
            value = parts.transpose(0, 1).reshape(len(value), -1).float()
        if rewrite.rows is not None:
            factors = rewrite.rows if rows is None else rewrite.rows[slice(*rows)]
            value = value * factors.view(-1, *[1] * (value.dim() - 1))
        if rewrite.columns is not None:
            factors = rewrite.columns.repeat(value.shape[1] // len(rewrite.columns))
            value = value * factors.view(-1, *[1] * (value.dim() - 2))
        return value


def _turned_rows(rotation: Tensor, rows: Rows | None, read: Callable[[Rows | None], Tensor]) -> Tensor:
    """A turned row needs all of its group, so whole groups are read."""
    groups, dim = rotation.shape[:2]
    begin, end = rows or (0, groups * dim)
    first, last = begin // dim, -(-end // dim)
    value = read((first * dim, last * dim))
    turned = rotation[first:last] @ value.view(last - first, dim, -1).double()
    return turned.view(value.shape)[begin - first * dim : end - first * dim].float()


def powers_of_two(exponents: Tensor) -> Tensor:
    """``2 ** exponents`` float32, exactly; ``exponents`` are whole numbers in a float tensor."""
    return torch.ldexp(torch.ones(exponents.shape), exponents.int())
