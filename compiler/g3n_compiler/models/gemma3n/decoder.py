"""The Gemma 3n text decoder, functional, written so that exporters and delegates take it whole.

Reference: ``transformers`` ``Gemma3nTextModel`` (eager, fp32). It differs in form, not in result:

* AltUp's streams are four separate ``[1, T, hidden]`` tensors, mixed by multiply-adds.
* Prompt tokens run only the KV-owning layers (:meth:`TextDecoder.prefill`); the layers above read those caches, so only
  the last position needs to go through them.
* Where keys and values are stored, and which positions are visible, is up to the cache (:class:`KVCache`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.models.dialect import Dialect
from g3n_compiler.models.family import KVCache, Rope, State, Streams
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.gemma3n.text_weights import ffn_name
from g3n_compiler.models.weights import Weights


class TextDecoder:
    """The decoder's arithmetic over any :class:`Weights`, :class:`KVCache` and :class:`Dialect`.

    Args:
        observe: called after each layer with its index and its output streams, to compare layer by layer.
    """

    def __init__(
        self,
        config: TextConfig,
        weights: Weights,
        dialect: Dialect | None = None,
        observe: Callable[[int, Streams], None] | None = None,
    ) -> None:
        self.config = config
        self.weights = weights
        self.dialect = dialect or Dialect()
        self.observe = observe or (lambda layer, streams: None)

    # -- entry points ------------------------------------------------------------------------------------------------

    def prefill(self, embeddings: Tensor, ple: Tensor, positions: Tensor, cache: KVCache) -> None:
        """Fill the caches from a chunk of prompt: only the KV-owning layers, and of the last one only its keys and
        values.

        Args:
            embeddings: ``[1, T, hidden]`` float, scaled token embeddings or soft tokens.
            ple: ``[1, T, layers, ple_dim]`` float, scaled per-layer embedding rows.
            positions: ``[T]`` int, position of each token.
        """
        state = self.begin(embeddings, ple, positions)
        last = self.config.num_kv_layers - 1
        for i in range(last):
            state = self.layer(i, state, cache)
            self.observe(i, state.streams)
        predicted = self.predict(last, state.streams)
        self.keys_values(
            last,
            self.norm(f"layers.{last}.input_layernorm", self.active(predicted)),
            state.rope,
            cache,
        )

    def decode(self, embeddings: Tensor, ple: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Run all layers over a chunk (usually of one token) -> logits ``[1, T, vocab]`` after the softcap."""
        state = self.begin(embeddings, ple, positions)
        for i in range(self.config.num_layers):
            state = self.layer(i, state, cache)
            self.observe(i, state.streams)
        return self.logits(state.streams)

    # -- the parts, in order -------------------------------------------------------------------------------------------

    def begin(self, embeddings: Tensor, ple: Tensor, positions: Tensor) -> State:
        """Expand the embeddings into AltUp's streams of equal magnitude, and compute the rotary embeddings of the
        positions.
        """
        return State(self.join(embeddings, *self.fan_out(embeddings)), embeddings, ple, self.rope(positions))

    def fan_out(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        """AltUp's streams after the first, which is ``embeddings`` itself."""
        magnitude = self._magnitude(embeddings)
        return tuple(
            self._to_magnitude(self.weights.linear(f"altup_projections.{i}", embeddings), magnitude)
            for i in range(self.config.altup_num_inputs - 1)
        )

    def layer(self, i: int, state: State, cache: KVCache, wanted: slice | Tensor | None = None) -> State:
        """One decoder layer: AltUp predict, attention with LAUREL, FFN, AltUp correct, per-layer embedding."""
        predicted = self.predict(i, state.streams)
        x = self.norm(f"layers.{i}.input_layernorm", self.active(predicted))
        if i < self.config.num_kv_layers:
            self.keys_values(i, x, state.rope, cache)
        if wanted is not None:
            predicted, x, state = tuple(p[:, wanted] for p in predicted), x[:, wanted], state.at(wanted)
        return self.block(i, predicted, x, state, cache)

    def block(self, i: int, predicted: Streams, x: Tensor, state: State, cache: KVCache) -> State:
        """The layer after its keys and values are in the cache; ``x`` is the normalised active stream.

        Apart from the cache, nothing here reads another position, so a chunk may be narrowed before it.
        """
        p = f"layers.{i}."
        active = self.active(predicted)
        attention = self.norm(p + "post_attention_layernorm", self.attention(i, x, state.rope, cache))
        laurel = self.weights.linear(p + "laurel.linear_right", self.weights.linear(p + "laurel.linear_left", x))
        laurel = x + self.norm(p + "laurel.post_laurel_norm", laurel)
        x = (active + attention + laurel) * (1 / math.sqrt(2))
        ffn = self.ffn(i, self.norm(p + "pre_feedforward_layernorm", x))
        x = x + self.norm(p + "post_feedforward_layernorm", ffn)
        return state._replace(streams=self.advance(i, predicted, x, state))

    def rope(self, positions: Tensor) -> Rope:
        """cos and sin ``[1, T, 1, head_dim]`` for each attention type; full and sliding layers have different bases."""
        out: Rope = {}
        exponent = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32) / self.config.head_dim
        for kind in dict.fromkeys(self.config.layer_types):
            inverse = self.config.rope_theta(kind) ** -exponent
            angle = positions.to(torch.float32).view(1, -1, 1, 1) * inverse.view(1, 1, 1, -1)
            angle = torch.cat((angle, angle), -1)
            out[kind] = (angle.cos(), angle.sin())
        return out

    # -- AltUp's streams, which a backend may keep in another form -----------------------------------------------------

    def join(self, *streams: Tensor) -> Streams:
        """Streams ``[1, T, hidden]`` in the form in which they pass from layer to layer."""
        return streams

    def split(self, streams: Streams) -> Sequence[Tensor]:
        """The inverse of :meth:`join`."""
        return tuple(streams)

    def active(self, streams: Streams) -> Tensor:
        """The stream ``[1, T, hidden]`` that attention and FFN read."""
        stream: Tensor = streams[self.config.altup_active_idx]
        return stream

    def advance(self, i: int, predicted: Streams, activated: Tensor, state: State) -> Streams:
        """AltUp correct, then add the layer's own embedding to every stream but the first."""
        corrected = self.correct(i, predicted, activated)
        injected = self.inject_ple(i, self.active(corrected), state)
        return (corrected[0], *(s + injected for s in corrected[1:]))

    def predict(self, i: int, streams: Streams) -> Streams:
        """AltUp predict: ``stream_a + sum_b coef[a, b] * stream_b``; the active stream is routed to coefficients."""
        n = self.config.altup_num_inputs
        routed = self._route(i, self.active(streams))
        coefs = self.dialect.columns(routed, self.weights.tensor(f"layers.{i}.altup.prediction_coefs"))
        return self.dialect.mix(streams, [coefs[a * n : (a + 1) * n] for a in range(n)])

    def correct(self, i: int, predicted: Streams, activated: Tensor) -> Streams:
        """AltUp correct: move every stream by the active one's innovation. The reference's clip of 120 is only for
        training.
        """
        coefs = self.dialect.columns(
            self._route(i, activated), self.weights.tensor(f"layers.{i}.altup.correction_coefs")
        )
        innovation = activated - self.active(predicted)
        return tuple(s + innovation * (coef + 1.0) for s, coef in zip(predicted, coefs, strict=True))

    def keys_values(self, i: int, x: Tensor, rope: Rope, cache: KVCache) -> None:
        """Project, normalise and rotate this chunk's keys and values, and pass them to the cache."""
        c, p = self.config, f"layers.{i}.self_attn."
        shape = (1, -1, c.num_kv_heads, c.head_dim)
        key = self.norm(p + "k_norm", self.weights.linear(p + "k_proj", x).view(shape))
        value = self.norm(None, self.weights.linear(p + "v_proj", x).view(shape))
        cache.append(i, self._rotate(key, rope[c.layer_types[i]]), value)

    def attention(self, i: int, x: Tensor, rope: Rope, cache: KVCache) -> Tensor:
        """Grouped-query attention with scale 1.0 (queries and keys are normalised) -> ``[1, T, hidden]``."""
        c, p = self.config, f"layers.{i}.self_attn."
        query = self.weights.linear(p + "q_proj", x).view(1, -1, c.num_heads, c.head_dim)
        query = self._rotate(self.norm(p + "q_norm", query), rope[c.layer_types[i]])
        return self.weights.linear(p + "o_proj", cache.attend(c.kv_owner(i), query))

    def ffn(self, i: int, x: Tensor) -> Tensor:
        """Gated FFN; sparse layers keep the gates above ``mean + z * std`` (Gaussian top-k, population std)."""
        p, count = f"layers.{i}.mlp.", len(self.config.blocks(i))
        gates = [self.weights.linear(p + ffn_name("gate_proj", block), x) for block in range(count)]
        if self.config.sparsity[i] > 0:
            mean = self._block_mean(i, gates)
            centred = [gate - mean for gate in gates]
            std = torch.sqrt(self._block_mean(i, [gate * gate for gate in centred]))
            cutoff = std * statistics.NormalDist().inv_cdf(self.config.sparsity[i])
            gates = [F.relu(gate - cutoff) for gate in centred]
        out: Tensor | None = None
        for block, gate in enumerate(gates):
            up = self.weights.linear(p + ffn_name("up_proj", block), x)
            down = self.weights.linear(p + ffn_name("down_proj", block), self.dialect.gelu(gate) * up)
            out = down if out is None else out + down
        assert out is not None
        return out

    def inject_ple(self, i: int, active: Tensor, state: State) -> Tensor:
        """What the layer's own embedding adds to the passive streams ``[1, T, hidden]``."""
        p = f"layers.{i}."
        if self.config.altup_correct_scale:
            active = active * self.weights.tensor(p + "altup.correct_output_scale")
        gate = self.dialect.gelu(self.weights.linear(p + "per_layer_input_gate", active))
        projected = self.weights.linear(p + "per_layer_projection", gate * self.ple_input(i, state))
        return self.norm(p + "post_per_layer_input_norm", projected)

    def ple_input(self, i: int, state: State) -> Tensor:
        """Layer ``i``'s input ``[1, T, ple_dim]``: its row of the table combined with a projection of the embedding."""
        projected = self.weights.linear(f"layers.{i}.per_layer_model_projection", state.embeddings)
        projected = self.norm("per_layer_projection_norm", projected * self.config.hidden_size**-0.5)
        return (projected + self.dialect.layer_rows(state.ple, i)) * (1 / math.sqrt(2))

    def logits(self, streams: Streams) -> Tensor:
        """Combine AltUp's streams, normalise, project and softcap -> ``[1, T, vocab]``."""
        x, *others = self.split(streams)
        magnitude = self._magnitude(x)
        for i, stream in enumerate(others):
            x = x + self._to_magnitude(self.weights.linear(f"altup_unembed_projections.{i}", stream), magnitude)
        x = self.norm("norm", x * (1 / self.config.altup_num_inputs))
        cap = self.config.final_logit_softcap
        return torch.tanh(self.weights.linear("lm_head", x) * (1 / cap)) * cap

    # -- small pieces ----------------------------------------------------------------------------------------------

    def norm(self, name: str | None, x: Tensor) -> Tensor:
        """RMS norm over the last dimension; ``None`` for the one on values, which has no weight."""
        y = x * torch.rsqrt(self.dialect.mean(x * x) + self.config.rms_norm_eps)
        return y if name is None else y * self.weights.tensor(name)

    def _block_mean(self, i: int, blocks: Sequence[Tensor]) -> Tensor:
        """Mean over the whole FFN width of layer ``i`` of values that are computed in ``blocks``."""
        if len(blocks) == 1:
            return self.dialect.mean(blocks[0])
        width = self.config.ffn_dims[i]
        parts = [self.dialect.mean(b) * (n / width) for b, n in zip(blocks, self.config.blocks(i), strict=True)]
        return sum(parts[1:], parts[0])

    def _route(self, i: int, x: Tensor) -> Tensor:
        """Router modalities ``[1, T, altup_num_inputs]``."""
        x = self.norm(f"layers.{i}.altup.router_norm", x) * (1 / self.config.hidden_size)
        return torch.tanh(F.linear(x, self.weights.tensor(f"layers.{i}.altup.modality_router")))

    def _rotate(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        return x * rope[0] + self.dialect.rotate_half(x) * rope[1]

    def _magnitude(self, x: Tensor) -> Tensor:
        return torch.sqrt(self.dialect.mean(x * x))

    def _to_magnitude(self, x: Tensor, magnitude: Tensor) -> Tensor:
        return x * (magnitude * torch.rsqrt(torch.clamp(self.dialect.mean(x * x), min=1e-5)))
