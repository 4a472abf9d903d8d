"""Our own loop over a single program: the calls of the app that it is for, one after another.

Needs ``executorch`` and numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.lower.executorch.single.forms import Form
from g3n_runtime.executorch.program import load_program, program_errors

Part = Sequence[int] | np.ndarray
"""Token ids, a picture ``[S, S, 3]`` uint8, or a sound ``[n]`` float32 at 16 kHz."""


class SingleLoop:
    """Greedy answers of a single program.

    Args:
        form: whose calls the program answers.
    """

    @program_errors()
    def __init__(self, form: Form, program: Path) -> None:
        self.form, self._path = form, program
        self._program = load_program(program)
        self._methods: dict[str, tuple[Any, Any]] = {}
        self.chunk = int(self.constant("get_max_seq_len")[0])
        self.stop_ids = frozenset(int(i) for i in self.constant("get_eos_ids"))
        self._position = 0

    @property
    def methods(self) -> frozenset[str]:
        """Names of the program's methods."""
        return frozenset(self._program.method_names)

    def constant(self, name: str) -> list[Any]:
        """What a method without inputs gives."""
        return list(self._program.load_method(name).execute([]))

    def sizes(self, name: str) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """The largest sizes of a method's inputs and outputs, as a runner reads them."""
        meta = self._method(name).metadata
        return (
            [tuple(meta.input_tensor_meta(i).sizes()) for i in range(meta.num_inputs())],
            [tuple(meta.output_tensor_meta(i).sizes()) for i in range(meta.num_outputs())],
        )

    def rows(self, ids: Sequence[int]) -> np.ndarray:
        """What ``token_embedding`` gives, as rows ``[T, width]`` in either form."""
        out = self.run("token_embedding", torch.tensor([list(ids)]))
        return np.concatenate([x.reshape(len(ids), -1) for x in out], -1)

    def encode(self, part: np.ndarray) -> np.ndarray:
        """What an encoder gives for a picture or a sound, ``[N, width]`` or ``[N, hidden]``."""
        if part.ndim == 3:
            white = 255 if self.form == "stock" else 1
            return self.run("vision_encoder", as_tensor(part, white))[0][0]
        sound = torch.from_numpy(np.ascontiguousarray(part))[None]
        if self.form == "stock":
            return self.run("audio_encoder", sound[None])[0][0]
        return self.run("audio_encoder", sound, torch.tensor(part.shape[0]))[0][0]

    def forward(self, ids: Sequence[int], position: int) -> np.ndarray:
        """Logits ``[vocab]`` of the method ``forward``, which a runner for text calls."""
        return self.run("forward", torch.tensor([list(ids)]), _positions(position, len(ids)))[0][0, -1]

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        """Logits ``[T - prompt + 1, vocab]`` from position ``prompt - 1`` on; the rest goes token by token."""
        last = self.read([ids[:prompt]])
        return np.stack([last, *(self._feed(self._looked_up([token])) for token in ids[prompt:])])

    def answer(self, parts: Sequence[Part], count: int) -> list[int]:
        """Up to ``count`` of the most likely tokens after ``parts``; a stop token is not among them."""
        out: list[int] = []
        logits = self.read(parts)
        while len(out) < count and (token := int(logits.argmax())) not in self.stop_ids:
            out.append(token)
            if len(out) < count:
                logits = self._feed(self._looked_up([token]))
        return out

    def read(self, parts: Sequence[Part]) -> np.ndarray:
        """Start a text with ``parts``; logits ``[vocab]`` after the last, called as the app's prefiller does it."""
        self._position = 0
        if self.form == "stock":
            for part in parts:
                rows = self.encode(part) if isinstance(part, np.ndarray) else self.rows(part)
                logits = self._feed([rows[None]])
            return logits
        ids: list[int] = []
        places: list[tuple[int, np.ndarray]] = []
        for part in parts:
            if isinstance(part, np.ndarray):
                soft = self.encode(part)
                places.append((len(ids), soft))
                ids += [0] * len(soft)
            else:
                ids += part
        embeddings, ple = self._looked_up(ids)
        for at, soft in places:
            embeddings[0, at : at + len(soft)] = soft
        for begin in range(0, len(ids), self.chunk):
            logits = self._feed([x[:, begin : begin + self.chunk] for x in (embeddings, ple)])
        return logits

    def _looked_up(self, ids: Sequence[int]) -> list[np.ndarray]:
        return self.run("token_embedding", torch.tensor([list(ids)]))

    def _feed(self, given: Sequence[np.ndarray]) -> np.ndarray:
        """Logits ``[vocab]`` of ``text_decoder`` for the next tokens."""
        count = given[0].shape[1]
        inputs = [torch.from_numpy(np.ascontiguousarray(x)) for x in given]
        logits = self.run("text_decoder", *inputs, _positions(self._position, count))[0]
        self._position += count
        return logits[0, -1]

    @program_errors()
    def run(self, name: str, *inputs: Tensor) -> list[np.ndarray]:
        """All outputs of the method ``name``."""
        return [output.numpy().copy() for output in self._method(name).execute(list(inputs))]

    def _method(self, name: str) -> Any:
        if name not in self._methods:
            # Python's methods of one program work in the same memory: an encoder would write over the KV cache.
            own = load_program(self._path)
            self._methods[name] = own, own.load_method(name)
        return self._methods[name][1]


def as_tensor(image: np.ndarray, white: float = 255) -> Tensor:
    """A picture ``[S, S, 3]`` uint8 as ``[1, 3, S, S]`` float32 in which 255 is ``255 / white``."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / white)[None]


def _positions(begin: int, count: int) -> Tensor:
    return torch.arange(begin, begin + count)
