"""Call the methods of a text program one by one: logits for parity, and embedding rows straight from flash.

Needs ``executorch`` (which brings ``torch``) and numpy only.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from g3n_runtime.conversation import require_within
from g3n_runtime.errors import EngineError
from g3n_runtime.executorch.program import load_program, program_errors
from g3n_runtime.open_file import OpenFile, address

TOKEN_TABLE = "get_table_embed_tokens"
PLE_TABLE = "get_table_embed_tokens_per_layer"


@dataclass(frozen=True)
class ExecuTorchParts:
    """The files of a text bundle; those that a bundle holds open are run as they were verified."""

    model: Path | OpenFile
    tables: Path | OpenFile
    tokenizer: Path | OpenFile | None = None
    """``tokenizer.json``; the runner needs it, a :class:`ExecuTorchModel` does not."""

    def require_unchanged(self) -> None:
        """See that the files that are held open are what they were; see :meth:`OpenFile.require_unchanged`."""
        for file in (self.model, self.tables, self.tokenizer):
            if isinstance(file, OpenFile):
                file.require_unchanged()


class MappedTable:
    """An embedding table in the ``.ptd``: only the pages of the rows looked up become resident, until the next look-up.

    Args:
        layout: ``[rows, width, bits, values_offset, scales_offset]``, offsets in bytes from the start of the file.
    """

    def __init__(self, path: Path | OpenFile, layout: Sequence[int]) -> None:
        try:
            self.rows, self.width, self.bits, values_offset, scales_offset = layout
            with address(path).open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._advise("MADV_RANDOM")
            dtype: np.dtype[Any] = np.dtype({32: "<f4", 8: "i1", 4: "u1"}[self.bits])
            stored = self.width // 2 if self.bits == 4 else self.width
            self._values = np.frombuffer(self._map, dtype, self.rows * stored, values_offset).reshape(self.rows, stored)
            self._scales = None if self.bits == 32 else np.frombuffer(self._map, "<f4", self.rows, scales_offset)
        except (OSError, ValueError, KeyError, OverflowError) as error:
            raise EngineError(f"{path.name} has no table of the form {list(layout)} ({error}): copy it again") from None

    def look_up(self, ids: np.ndarray) -> np.ndarray:
        """Rows ``[T, width]`` float32 of ``ids [T]``; ids outside the table look up row 0."""
        ids = np.where((ids >= 0) & (ids < self.rows), ids, 0)
        rows = self._dequantize(ids)
        # Rows stay in the page cache; without this the process keeps them, and neighbours that the kernel maps along.
        self._advise("MADV_DONTNEED")
        return rows

    def _dequantize(self, ids: np.ndarray) -> np.ndarray:
        values = self._values[ids]
        if self._scales is None:
            return values
        if self.bits == 4:
            # The first of two values is in the high nibble.
            values = np.stack((values >> 4, values & 0xF), -1).reshape(len(ids), self.width).astype(np.int8) - 8
        return values.astype(np.float32) * self._scales[ids][:, None]

    def _advise(self, advice: str) -> None:
        """Advise the kernel, where it knows the advice."""
        if (value := getattr(mmap, advice, None)) is not None:
            self._map.madvise(value)


class ExecuTorchModel:
    """Calls a program's methods as the runner does, but returns logits.

    With a ``text_decoder`` in the program the embedding rows are looked up here, so that the runtime never maps the
    tables: it locks what it maps into memory where the process may do so. Otherwise ``forward`` does all.
    """

    @program_errors()
    def __init__(self, parts: ExecuTorchParts, method: str | None = None) -> None:
        self._program = load_program(parts.model, parts.tables)
        names = self._program.method_names
        self.method = method or ("text_decoder" if "text_decoder" in names else "forward")
        if self.method not in names:
            raise EngineError(f"{parts.model.name} has no method {self.method!r}: it has {', '.join(sorted(names))}")
        self.chunk = int(self._constant("get_max_seq_len")[0])
        self.context = int(self._constant("get_max_context_len")[0])
        self.vocab_size = int(self._constant("get_vocab_size")[0])
        self.bos_id = int(self._constant("get_bos_id")[0])
        self.stop_ids = frozenset(int(i) for i in self._constant("get_eos_ids"))
        self._execute = self._program.load_method(self.method)
        self._tokens = MappedTable(parts.tables, self._constant(TOKEN_TABLE))
        self._ple = MappedTable(parts.tables, self._constant(PLE_TABLE))

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Teacher-forced logits ``[T, vocab]`` float32, one token a call."""
        return np.stack([self.step([token], position) for position, token in enumerate(ids)])

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        """Logits ``[T - prompt + 1, vocab]`` of the positions from ``prompt - 1`` on; the prompt comes in chunks."""
        last = self.prefill(ids[:prompt])
        return np.stack([last, *(self.step([token], prompt + i) for i, token in enumerate(ids[prompt:]))])

    def embeddings(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Scaled token embeddings ``[T, hidden]`` float32."""
        return self._tokens.look_up(np.asarray(ids)) * np.float32(self._tokens.width**0.5)

    def ple(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Scaled per-layer embeddings ``[T, layers * ple_dim]`` float32."""
        return self._ple.look_up(np.asarray(ids))

    def greedy(self, ids: Sequence[int], count: int, stop: Sequence[int] = ()) -> list[int]:
        """Up to ``count`` most likely tokens after ``ids``; ends before a token of ``stop``."""
        out: list[int] = []
        logits = self.prefill(ids)
        while len(out) < count and (token := int(logits.argmax())) not in stop:
            out.append(token)
            if len(out) < count:
                logits = self.step([token], len(ids) + len(out) - 1)
        return out

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Start a text with ``ids``, a chunk a call; logits ``[vocab]`` after the last."""
        for begin in range(0, len(ids), self.chunk):
            logits = self.step(ids[begin : begin + self.chunk], begin)
        return logits

    def step(self, ids: Sequence[int], position: int) -> np.ndarray:
        """Logits ``[vocab]`` after ``ids``, the first of which is at ``position``."""
        return self.call(ids, position)[0][0, -1]

    def call(self, ids: Sequence[int], position: int) -> list[np.ndarray]:
        """All outputs of the method for ``ids``, the first of which is at ``position``."""
        require_within(position + len(ids), self.context)
        return self._run(self._input(np.asarray(ids, np.int64)), position)

    def call_rows(self, rows: np.ndarray, position: int) -> list[np.ndarray]:
        """As :meth:`call` for rows ``[T, width]`` float32, with a method that takes such."""
        return self._run(torch.from_numpy(rows)[None], position)

    @program_errors()
    def _run(self, tokens: torch.Tensor, position: int) -> list[np.ndarray]:
        outputs = self._execute.execute([tokens, torch.arange(position, position + tokens.shape[1])])
        return [output.numpy().copy() for output in outputs]

    def _input(self, ids: np.ndarray) -> torch.Tensor:
        if self.method == "forward":
            return torch.from_numpy(ids)[None]
        if ids.min() < 0 or ids.max() >= self._tokens.rows:
            raise EngineError(f"token ids {ids.min()}..{ids.max()} are outside the vocabulary of {self._tokens.rows}")
        return torch.from_numpy(np.concatenate((self.embeddings(ids), self.ple(ids)), -1))[None]

    def _constant(self, name: str) -> list[Any]:
        return list(self._program.load_method(name).execute([]))
