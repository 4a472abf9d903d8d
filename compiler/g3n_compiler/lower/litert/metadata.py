"""What a ``.litertlm`` tells LiteRT-LM apart from the models: template, stop tokens, sampler, media, KV caches.

Format: the protocol buffers of ``litert_lm_builder.runtime.proto``.
"""

from __future__ import annotations

from collections.abc import Sequence

from litert_lm_builder.runtime.proto import executor_metadata_pb2, llm_metadata_pb2, sampler_params_pb2

from g3n_compiler.checkpoint.tokenizer import Sampler
from g3n_compiler.lower.litert.media import Media
from g3n_compiler.models.gemma3n.text_config import TextConfig

TURN_END = "<end_of_turn>\n"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% set system = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for message in (messages[1:] if system else messages) %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ system if loop.first else '' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'audio') %}{{ '<' + part['type'] + '_soft_token>' }}"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma's turns, for a checkpoint without a template: the engine's own prefixes and suffixes cannot put the system text
into the user's first turn."""


def llm_metadata(
    context: int,
    bos_id: int,
    stop_ids: Sequence[int],
    stop_strings: Sequence[str] = ("<end_of_turn>",),
    chat_template: str | None = None,
    sampler: Sampler | None = None,
    media: Media | None = None,
) -> bytes:
    """The ``LlmMetadata`` of a bundle.

    The model type is ``generic_model``: it renders exactly the chat template and takes its media from ``media``. The
    engine's ``gemma3n`` type would also split the text at image and audio tokens, which a text bundle cannot embed, and
    has its own mel front end.
    """
    media = media or Media()
    sampler = sampler or Sampler()
    meta = llm_metadata_pb2.LlmMetadata(
        max_num_tokens=context, supports_thinking=False, supports_function_calling=False
    )
    meta.start_token.token_ids.ids.append(bos_id)
    for token in stop_ids:
        meta.stop_tokens.add().token_ids.ids.append(token)
    for text in stop_strings:
        meta.stop_tokens.add().token_str = text
    meta.prompt_templates.user.prefix = "<start_of_turn>user\n"
    meta.prompt_templates.user.suffix = TURN_END
    meta.prompt_templates.model.prefix = "<start_of_turn>model\n"
    meta.prompt_templates.model.suffix = TURN_END
    meta.jinja_prompt_template = media.template(CHAT_TEMPLATE if chat_template is None else chat_template)
    meta.sampler_params.type = sampler_params_pb2.SamplerParameters.TOP_P
    meta.sampler_params.k = sampler.top_k
    meta.sampler_params.p = sampler.top_p
    meta.sampler_params.temperature = sampler.temperature
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
