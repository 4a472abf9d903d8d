"""A bundle as a model of lm-evaluation-harness: MMLU, or tasks of your own, on the files that a phone runs.

    python -m g3n_compiler.harness run --model g3n --model_args bundle=exported/nano-host-int4 --tasks hellaswag

The options are the harness's own. ``--model_args`` names the bundle's folder, and the ``runtime`` if it has several.
Needs ``pip install 'g3n[eval]'``.

Token ids, log-likelihoods and answers are those of the bundle's own tokenizer, tables and graphs, on this machine's
CPU; prompts are read as the engine reads them, and answers are greedy. The text model alone is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.progress import track

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.cli.show import show_error
from g3n_compiler.errors import ContextError, EngineError
from g3n_compiler.lower.registry import get_backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_runtime.bundle import open_bundle
from g3n_runtime.guard import go_on_in_child
from g3n_runtime.prompt import read_template

DEFAULT_TOKENS = 256
"""Of an answer, where a task names no number."""
FIRST_TOKENS = 16
"""Of an answer before it is looked at for its end; twice as many each time after."""
Scored = tuple[tuple[str, str], list[int], list[int]]
"""The two texts of a request, and their token ids."""
T = TypeVar("T")


@register_model("g3n")
class BundleModel(TemplateLM):  # type: ignore[misc]
    """See the module.

    Args:
        bundle: its folder.
        runtime: one of its runtimes; by default the first.
        batch_size, max_batch_size, device: what the harness passes to every model, asked for or not; here one request
            is run at a time, on the CPU.

    Raises:
        BundleError: the folder is no bundle, or a file of it was changed; also from every request, where one was
            changed since.
        EngineError: it has no such runtime.
    """

    def __init__(
        self,
        bundle: str,
        runtime: Runtime | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        opened = open_bundle(Path(bundle))
        manifest = opened.manifest
        runtimes = list(dict.fromkeys(part["runtime"] for part in manifest["subgraphs"]))
        chosen = runtimes[0] if runtime is None else runtime
        if chosen not in runtimes:
            raise EngineError(f"{bundle} has no runtime {chosen!r}: it has {' and '.join(runtimes)}")
        backend = get_backend(chosen)
        _, self._model = next(backend.open_models(opened.paths))
        self._codec = backend.open_tokenizer(opened.paths)
        self._template = read_template(manifest)
        self._context, self._bos = int(manifest["context"]), int(manifest["tokenizer"]["bos_id"])
        self._stop = frozenset(manifest["tokenizer"]["stop_ids"])
        self._eot = int(manifest["tokenizer"]["stop_ids"][0])
        self._bundle = opened
        opened.require_unchanged()  # they were opened by their paths, after they were hashed
        self._name = f"{opened.directory.name}, {chosen}"
        self._last: tuple[list[int], np.ndarray] | None = None

    @property
    def eot_token_id(self) -> int:
        return self._eot

    @property
    def prefix_token_id(self) -> int:
        """Bos, without which Gemma reads nothing as it was trained."""
        return self._bos

    @property
    def tokenizer_name(self) -> str:
        return self._name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, with bos unless ``add_special_tokens`` is false."""
        ids = self._codec.encode(string.removeprefix(self._template.bos))
        return ids if add_special_tokens is False else [self._bos, *ids]

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The checkpoint's, which the bundle carries."""
        return self._template.jinja if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self._template.render(chat_history, add_generation_prompt=add_generation_prompt)

    def _loglikelihood_tokens(
        self, requests: Sequence[Scored], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return self._unchanged([self._score(context, ids) for _, context, ids in _shown(requests, disable_tqdm)])

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows of the bundle's context that do not overlap."""
        return self._unchanged([self._whole(*request.args) for request in _shown(requests, disable_tqdm)])

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to the first of the texts that end one, a token that ends a turn, or a number of tokens."""
        return self._unchanged([self._answer(*request.args) for request in _shown(requests, disable_tqdm)])

    def _unchanged(self, results: list[T]) -> list[T]:
        """``results``, if the files that they are of are still those that were checked."""
        self._bundle.require_unchanged()
        return results

    def _whole(self, text: str) -> float:
        ids = self.tok_encode(text, add_special_tokens=False)
        windows = get_rolling_token_windows(ids, self._bos, self._context, context_len=1)
        return sum(self._score(*make_disjoint_window(window))[0] for window in windows)

    def _score(self, context: Sequence[int], ids: Sequence[int]) -> tuple[float, bool]:
        """The log-likelihood of ``ids`` after ``context``, and whether each is the likeliest."""
        context = self._fitting(context, len(ids) - 1)
        if len(ids) == 1 and self._last is not None and self._last[0] == context:
            logits = self._last[1]  # the choices of one question
        else:
            logits = self._model.prefilled_logits([*context, *ids[:-1]], len(context)).astype(np.float64)
            self._last = context, logits[:1]
        peak = logits.max(-1, keepdims=True)
        scores = logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))
        return float(scores[np.arange(len(ids)), ids].sum()), bool((logits.argmax(-1) == ids).all())

    def _answer(self, text: str, settings: dict[str, Any]) -> str:
        if settings.get("do_sample") and settings.get("temperature") != 0:
            raise EngineError("the task asks for sampled answers, and here answers are greedy: set do_sample to false")
        until = settings.get("until") or []
        ends = [until] if isinstance(until, str) else list(until)
        most = int(settings.get("max_gen_toks") or DEFAULT_TOKENS)
        prompt, count = self._fitting(self.tok_encode(text), most), 0
        said, is_over = "", False
        while not is_over:
            count = min(max(2 * count, FIRST_TOKENS), most)
            ids = self._model.greedy(prompt, count)
            stop = next((i for i, token in enumerate(ids) if token in self._stop), None)
            said = self._codec.decode(ids[:stop])
            found = [at for at in map(said.find, ends) if at >= 0]
            said = said[: min(found, default=len(said))]
            is_over = bool(found) or stop is not None or count == most
        return said

    def _fitting(self, context: Sequence[int], more: int) -> list[int]:
        """The end of ``context`` that leaves room for ``more`` tokens; bos stays in front of it."""
        room = self._context - more
        if room < 2:
            raise ContextError(
                f"{more} tokens do not fit the bundle's context of {self._context}: compile a longer one"
            )
        if len(context) <= room:
            return list(context)
        return [self._bos, *context[len(context) - room + 1 :]]


def _shown(requests: Sequence[T], is_quiet: bool) -> Sequence[T]:
    return list(requests) if is_quiet else track(requests, "Asking the bundle")  # type: ignore[return-value]


@reports_errors
def main() -> None:
    """The harness's own command line, with bundles among its models."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    go_on_in_child(show_error)  # an engine may end its process
    main()
