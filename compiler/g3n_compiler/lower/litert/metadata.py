"""What a ``.litertlm`` tells LiteRT-LM apart from the models: template, stop tokens, sampler, media, KV caches.

Format: the protocol buffers of ``litert_lm_builder.runtime.proto``.
"""

from __future__ import annotations

from collections.abc import Iterable

from litert_lm_builder.runtime.proto import executor_metadata_pb2, llm_metadata_pb2, sampler_params_pb2

from g3n_compiler.checkpoint.sentencepiece import CONTROL_SYMBOLS
from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.lower.litert.conversation_template import conversation_template
from g3n_compiler.lower.litert.media import Media
from g3n_compiler.models.gemma3n.text_config import TextConfig

RIGHT_ON_TEXT, RIGHT_ON_MEDIA = "0.11.0", "0.14.0"
"""The oldest engines of those tried (``benchmarks/engine_versions.py``) that answer rightly, without and with media.

Older ones than 0.14 read pictures and sounds wrongly, without an error. LiteRT-LM 0.18 only warns by this field.
"""


def llm_metadata(
    context: int,
    tokenizer: TextTokenizer,
    template: str,
    media: Media | None = None,
    tools: bool = False,
    suppressed: Iterable[int] = (),
) -> bytes:
    """The ``LlmMetadata`` of a bundle.

    The model type is ``generic_model``: it renders exactly the chat template and takes its media from ``media``. It
    reads no calls of tools, so the template refuses tools. The type ``gemma3n`` reads them, but has a mel front end of
    its own, reads the blank lines around pictures as tokens of their own, and refuses a text that spells
    ``<image_soft_token>``. With it ``litert-lm serve``, which asks for a constraint in every chat, answers only where
    the engine's library of constraints knows the vocabulary (:mod:`.engine_tokenizer`).

    Args:
        template: the chat template, in the engine's Jinja (:mod:`.prompts`).
        tools: whether the type is ``gemma3n``; without media, and of Gemma's turns only.
        suppressed: ids that the engine must never draw.
    """
    media = media or Media()
    meta = llm_metadata_pb2.LlmMetadata(
        max_num_tokens=context,
        supports_thinking=False,
        supports_function_calling=tools,
        min_runtime_version=RIGHT_ON_MEDIA if media.placeholders else RIGHT_ON_TEXT,
    )
    meta.start_token.token_ids.ids.append(tokenizer.bos_id)
    # The engine ends an answer under a constraint by the first of them alone, and the model ends it by its turn's end.
    for token in sorted(tokenizer.stop_ids, key=lambda token: token != tokenizer.turn_end):
        meta.stop_tokens.add().token_ids.ids.append(token)
    for text in tokenizer.stop_texts:
        if text not in CONTROL_SYMBOLS:
            meta.stop_tokens.add().token_str = text
    meta.jinja_prompt_template = media.template(conversation_template(template, tokenizer.turns, tools))
    meta.suppress_tokens.ids.extend(suppressed)
    sampler = tokenizer.sampler
    meta.sampler_params.type = sampler_params_pb2.SamplerParameters.TOP_P
    meta.sampler_params.k = max(1, sampler.top_k)
    meta.sampler_params.p = sampler.top_p
    meta.sampler_params.temperature = sampler.temperature
    if tools:
        meta.llm_model_type.gemma3n.SetInParent()
    else:
        media.describe(meta.llm_model_type.generic_model)
    return meta.SerializeToString(deterministic=True)


def executor_metadata(config: TextConfig, context: int) -> bytes:
    """The ``ExecutorMetadata``: every KV cache with its length; the rings of sliding layers are declared local.

    If they were declared global, the engine would limit prompts to the shortest cache.
    """
    meta = executor_metadata_pb2.ExecutorMetadata()
    meta.llm_executor_metadata.max_history_size = context
    kinds = executor_metadata_pb2.StateBuffer.Type
    for i in range(config.num_kv_layers):
        scope = "LOCAL" if config.is_sliding(i) else "GLOBAL"
        for letter, role, axis in (("k", "KEY", 2), ("v", "VALUE", 3)):
            name = f"kv_cache_{letter}_{i}"
            meta.llm_executor_metadata.state_buffers.add(
                prefill_input_name=name,
                prefill_output_name=name,
                decode_input_name=name,
                decode_output_name=name,
                type=kinds.Value(f"TYPE_{scope}_{role}_CACHE"),
                sequence_axis=axis,
                maximum_sequence_length=config.cache_length(i, context),
            )
    return meta.SerializeToString(deterministic=True)
