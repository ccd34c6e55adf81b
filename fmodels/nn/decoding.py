"""Generation of tokens with a cache: greedy, sampling and beam search, for decoders and encoder-decoders.

`prefill` reads the prompts, and `decode` chooses all new tokens in one loop; `decode_block` chooses a few, to show a text as it
grows. They are plain functions; the caller jits them, separately or together (`generate`).

Shapes: B batch, T prompt length, N new tokens, K beams, C candidates, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.axes import constrain
from fmodels.nn.cache import Cache, take_rows

NEVER = -1e9  # score of a beam that must not be chosen
Apply = Callable[..., tuple[dict[str, Any], Any]]
"""`Model.apply`: (params, state, batch, cache or its number of slots) -> (outputs, state)."""
Step = Callable[[jax.Array, Cache], tuple[jax.Array, Cache]]
"""Function (next token of each row, cache) -> (logits [B, V] of the token after it, cache)."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How to choose tokens. Raises ValueError for invalid or incompatible values."""

    new_tokens: int = 64
    "maximum number of tokens to generate, N"
    temperature: float = 0.0
    "divisor of the logits when sampling; 0: choose the most probable token"
    top_k: int | None = None
    "sample from this many most probable tokens (Fan et al. 2018)"
    top_p: float | None = None
    "sample from the fewest most probable tokens with at least this total probability (Holtzman et al. 2020)"
    min_p: float | None = None
    "sample from tokens with at least this fraction of the largest probability (Nguyen et al. 2024)"
    repetition_penalty: float = 1.0
    "divisor of positive, and factor of negative, logits of tokens in the prompt and the output (Keskar et al. 2019)"
    beams: int = 1
    "sequences that beam search follows; 1: no beam search"
    length_penalty: float = 1.0
    "beam search divides the log probability of a sequence by its length to this power"

    def __post_init__(self):
        for name in ("new_tokens", "beams", "top_k"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty must be greater than 0, not {self.repetition_penalty}")
        for name in ("top_p", "min_p"):
            if (value := getattr(self, name)) is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], not {value}")
        if self.beams > 1 and self.temperature:
            raise ValueError("beam search does not sample: set temperature to 0, or beams to 1")
        if not self.temperature and any((self.top_k, self.top_p, self.min_p)):
            raise ValueError("top_k, top_p and min_p select tokens to sample from: set temperature above 0")


@dataclass(frozen=True, kw_only=True)
class Decoding(Strategy):
    """A strategy for a vocabulary."""

    stop: tuple[int, ...] = ()
    "ids of tokens that end a sequence"
    pad: int = 0
    "id after the end of a sequence"
    vocab_size: int | None = None
    "ids from here on, which the tokenizer does not have, are never chosen"
    never: tuple[int, ...] = ()
    "other ids that are never chosen, such as special tokens"


class Sampling(NamedTuple):
    """The state of sampling between two tokens."""

    length: jax.Array  # of the new tokens
    is_done_B: jax.Array
    seen_BV: jax.Array  # True at the tokens of the prompt and the output
    logits_BV: jax.Array  # of the next token
    cache: Cache


def generate(
    apply: Apply, params: Any, state: Any, batch: Mapping[str, jax.Array], decoding: Decoding, rng: jax.Array
) -> jax.Array:
    """Return the new tokens [B, N] after the prompts of `batch`, with `pad` after the end of each.

    `batch` has the fields that the model reads; prompts of unequal length are padded on the left (see `padded`). `rng` is a key,
    or a key for each row. Raises ValueError if a prompt and its N new tokens exceed the `max_length` of the model.
    """
    logits_BV, cache = prefill(apply, params, state, batch, batch["tokens"].shape[1] + decoding.new_tokens)
    return decode(apply, params, state, logits_BV, seen_in(batch, logits_BV.shape[1]), cache, decoding, rng)


def padded(prompts: Sequence[Sequence[int]], length: int, pad: int = 0) -> dict[str, np.ndarray]:
    """Return `tokens` and `mask` [B, length] of prompts, padded on the left."""
    tokens = np.full((len(prompts), length), pad, np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[length - len(prompt) :] = prompt
    return {"tokens": tokens, "mask": np.arange(length) >= length - np.array([[len(prompt)] for prompt in prompts])}


def prefill(apply: Apply, params: Any, state: Any, batch: Mapping[str, jax.Array], slots: int) -> tuple[jax.Array, Cache]:
    """Return the logits [B, V] of the first new token, and the cache of the prompt, with `slots` for it and the new tokens."""
    return _advance(apply, params, state, batch, slots)


def decode(
    apply: Apply,
    params: Any,
    state: Any,
    logits_BV: jax.Array,
    seen_BV: jax.Array,
    cache: Cache,
    decoding: Decoding,
    rng: jax.Array,
) -> jax.Array:
    """Return the new tokens [B, N]. `seen_BV` is True at the tokens of the prompt. The cache has at least N empty slots."""
    step = lambda tokens_B, cache: _advance(apply, params, state, {"tokens": tokens_B[:, None]}, cache)
    if decoding.beams > 1:
        return beam_search(step, logits_BV, seen_BV, cache, decoding)
    return sample(step, logits_BV, seen_BV, cache, decoding, rng)


def decode_block(
    apply: Apply,
    params: Any,
    state: Any,
    sampling: Sampling,
    decoding: Decoding,
    keys_B: jax.Array,
    size: int,
    room: int | jax.Array,
) -> tuple[jax.Array, Sampling]:
    """Return [B, size] new tokens, of which at most `room` are chosen, and the state after them. Begin with that of `begin`."""
    step = lambda tokens_B, cache: _advance(apply, params, state, {"tokens": tokens_B[:, None]}, cache)
    return sample_block(step, sampling, decoding, keys_B, size, room)


def _advance(
    apply: Apply, params: Any, state: Any, batch: Mapping[str, jax.Array], cache: Cache | int
) -> tuple[jax.Array, Cache]:
    outputs, _ = apply(params, state, batch, cache)
    last_BD = constrain(outputs["hidden"][:, -1], "batch", None)
    logits_BV = jnp.einsum("BD,VD->BV", last_BD, outputs["embedding"], preferred_element_type=jnp.float32)
    return constrain(logits_BV, "batch", None), outputs["cache"]


def seen_in(batch: Mapping[str, jax.Array], vocab_size: int) -> jax.Array:
    """Return [B, V]: True at the tokens of the prompt."""
    tokens_BT, rows_B1 = jnp.asarray(batch["tokens"]), jnp.arange(len(batch["tokens"]))[:, None]
    mask_BT = batch.get("mask", jnp.ones(tokens_BT.shape, bool))
    return jnp.zeros((len(tokens_BT), vocab_size), bool).at[rows_B1, tokens_BT].max(mask_BT)


def penalized(logits_BV: jax.Array, seen_BV: jax.Array, decoding: Decoding) -> jax.Array:
    """Return the logits after the repetition penalty, -inf at ids that are never chosen."""
    if decoding.repetition_penalty != 1:
        factor_BV = jnp.where(logits_BV > 0, 1 / decoding.repetition_penalty, decoding.repetition_penalty)
        logits_BV = jnp.where(seen_BV, logits_BV * factor_BV, logits_BV)
    if decoding.vocab_size is not None:
        logits_BV = jnp.where(jnp.arange(logits_BV.shape[1]) < decoding.vocab_size, logits_BV, -jnp.inf)
    return logits_BV.at[:, jnp.array(decoding.never, jnp.int32)].set(-jnp.inf)


def filtered(logits_BV: jax.Array, decoding: Decoding) -> jax.Array:
    """Return the logits divided by the temperature, -inf at tokens that are not sampled."""
    logits_BV = logits_BV / decoding.temperature
    if decoding.top_k is not None:
        least_B1 = jax.lax.top_k(logits_BV, min(decoding.top_k, logits_BV.shape[1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
    if decoding.top_p is not None:
        sorted_BV = jnp.sort(logits_BV, descending=True)
        p_BV = jax.nn.softmax(sorted_BV)
        kept_BV = jnp.cumsum(p_BV, axis=1) - p_BV < decoding.top_p  # more probable tokens have less than top_p
        least_B1 = jnp.where(kept_BV, sorted_BV, jnp.inf).min(1, keepdims=True)
        logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
    if decoding.min_p is not None:
        p_BV = jax.nn.softmax(logits_BV)
        logits_BV = jnp.where(p_BV >= decoding.min_p * p_BV.max(1, keepdims=True), logits_BV, -jnp.inf)
    return logits_BV


def begin(logits_BV: jax.Array, seen_BV: jax.Array, cache: Cache) -> Sampling:
    """Return the state before the first token, from the results of `prefill`."""
    return Sampling(jnp.zeros((), jnp.int32), jnp.zeros(len(logits_BV), bool), seen_BV, logits_BV, cache)


def sample(step: Step, logits_BV: jax.Array, seen_BV: jax.Array, cache: Cache, decoding: Decoding, rng: jax.Array) -> jax.Array:
    """Return [B, N] tokens that are most probable or, with a temperature, sampled."""
    keys_B = rng if rng.ndim else row_keys(rng, jnp.arange(len(logits_BV)))
    return sample_block(step, begin(logits_BV, seen_BV, cache), decoding, keys_B, decoding.new_tokens, decoding.new_tokens)[0]


def row_keys(rng: jax.Array, rows_B: jax.Array) -> jax.Array:
    """Return a key for each row, from its index."""
    return jax.vmap(lambda row: jax.random.fold_in(rng, row))(rows_B)


def sample_block(
    step: Step, state: Sampling, decoding: Decoding, keys_B: jax.Array, size: int, room: int | jax.Array
) -> tuple[jax.Array, Sampling]:
    """Return [B, size] tokens, of which at most `room` are chosen, and the state after them.

    The tokens of a row depend on its key and their place in the text, not on the blocks or on other rows."""
    rows_B, stop = jnp.arange(len(keys_B)), jnp.array(decoding.stop, jnp.int32)

    def going(carry) -> jax.Array:
        i, _, state = carry
        return (i < room) & ~state.is_done_B.all()

    def choose(carry):
        i, tokens_BN, (length, is_done_B, seen_BV, logits_BV, cache) = carry
        logits_BV = penalized(logits_BV, seen_BV, decoding)
        if decoding.temperature:
            keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, length)
            chosen_B = jax.vmap(jax.random.categorical)(keys, filtered(logits_BV, decoding))
        else:
            chosen_B = logits_BV.argmax(1)
        chosen_B = jnp.where(is_done_B, decoding.pad, chosen_B).astype(jnp.int32)
        seen_BV = seen_BV.at[rows_B, chosen_B].set(True)
        logits_BV, cache = step(chosen_B, cache)
        state = Sampling(length + 1, is_done_B | jnp.isin(chosen_B, stop), seen_BV, logits_BV, cache)
        return i + 1, tokens_BN.at[:, i].set(chosen_B), state

    tokens_BN = jnp.full((len(rows_B), size), decoding.pad, jnp.int32)
    _, tokens_BN, state = jax.lax.while_loop(going, choose, (0, tokens_BN, state))
    return tokens_BN, state


def beam_search(step: Step, logits_BV: jax.Array, seen_BV: jax.Array, cache: Cache, decoding: Decoding) -> jax.Array:
    """Return [B, N] tokens of the finished sequence with the best score among those that K beams find.

    A score is a log probability divided by length ** length_penalty. As in `transformers`, a row ends when the best beam, at its
    present length, scores less than the worst of K finished sequences.
    """
    K, N, (B, V) = decoding.beams, decoding.new_tokens, logits_BV.shape
    C = max(2, 1 + len(decoding.stop)) * K  # at least K candidates do not end
    stop, row_of_beam = jnp.array(decoding.stop, jnp.int32), jnp.repeat(jnp.arange(B), K)
    take = lambda x, index_BK: jnp.take_along_axis(x, index_BK.reshape(*index_BK.shape, *(1,) * (x.ndim - 2)), axis=1)

    def best(scores_BC: jax.Array, *values: jax.Array) -> tuple[jax.Array, ...]:
        scores_BK, index_BK = jax.lax.top_k(scores_BC, K)
        return scores_BK, *(take(x, index_BK) for x in values)

    def going(state) -> jax.Array:
        return jnp.any(state["is_improvable"]) & ~state["is_over"]

    def extend(state: dict[str, Any]) -> dict[str, Any]:
        i, (scores_BK, tokens_BKN), (final_BK, final_BKN, is_final_BK) = state["i"], state["running"], state["final"]
        log_p = penalized(jax.nn.log_softmax(state["logits"]), state["seen"], decoding)
        found_BC, index_BC = jax.lax.top_k((log_p.reshape(B, K, V) + scores_BK[..., None]).reshape(B, K * V), C)
        beam_BC, chosen_BC = index_BC // V, index_BC % V
        tokens_BCN = take(tokens_BKN, beam_BC).at[:, :, i].set(chosen_BC)
        ends_BC = jnp.isin(chosen_BC, stop) | (i + 1 == N)

        is_new_BC = ends_BC & (jnp.arange(C) < K) & state["is_improvable"]
        new_BC = jnp.where(is_new_BC, found_BC / (i + 1.0) ** decoding.length_penalty, NEVER)
        merged = (jnp.concatenate(pair, axis=1) for pair in ((final_BKN, tokens_BCN), (is_final_BK, is_new_BC)))
        final_BK, final_BKN, is_final_BK = best(jnp.concatenate([final_BK, new_BC], axis=1), *merged)

        scores_BK, tokens_BKN, beam_BK, chosen_BK = best(found_BC + NEVER * ends_BC, tokens_BCN, beam_BC, chosen_BC)
        rows = (jnp.arange(B)[:, None] * K + beam_BK).reshape(-1)
        seen = state["seen"][rows].at[jnp.arange(B * K), chosen_BK.reshape(-1)].set(True)
        logits, cache = step(chosen_BK.reshape(-1).astype(jnp.int32), take_rows(state["cache"], rows))
        worst_BK = jnp.where(is_final_BK, final_BK.min(1, keepdims=True), NEVER)
        could_improve_B1 = (scores_BK[:, :1] / (i + 1.0) ** decoding.length_penalty > worst_BK).any(1, keepdims=True)
        return {
            "i": i + 1,
            "running": (scores_BK, tokens_BKN),
            "final": (final_BK, final_BKN, is_final_BK),
            "is_improvable": state["is_improvable"] & could_improve_B1,
            "is_over": ends_BC.all(),
            "seen": seen,
            "logits": logits,
            "cache": cache,
        }

    tokens_BKN = jnp.full((B, K, N), decoding.pad, jnp.int32)
    state = {
        "i": 0,
        "running": (jnp.tile(jnp.where(jnp.arange(K) == 0, 0.0, NEVER), (B, 1)), tokens_BKN),  # beams begin equal: use one
        "final": (jnp.full((B, K), NEVER), tokens_BKN, jnp.zeros((B, K), bool)),
        "is_improvable": jnp.ones((B, 1), bool),
        "is_over": jnp.zeros((), bool),
        "seen": seen_BV[row_of_beam],
        "logits": logits_BV[row_of_beam],
        "cache": take_rows(cache, row_of_beam),
    }
    return jax.lax.while_loop(going, extend, state)["final"][1][:, 0]
