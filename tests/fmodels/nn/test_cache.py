"""Decoding with a cache has the hidden states of the whole sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.axes import split
from fmodels.gpt import MODERN, GptConfig
from fmodels.model import Model
from tests.cases import cases

ROWS, LENGTH, PROMPT, SLOTS = 3, 12, 8, 15
PADDING = np.array([0, 4, 7])  # on the left

VARIANTS = {
    "gpt2": {},
    "modern": {**MODERN, "kv_heads": 2, "tied": False},
    "sinusoidal": {"position": "sinusoidal", "norm_position": "post"},
    "alibi": {"position": "alibi", "scan": True},
    "relative": {"position": "relative", "window": 4},
    "alternating": {"position": "rotary", "window": 3, "global_every": 2, "local_rotary_base": 100.0, "scan": True},
}


def config(**changes) -> GptConfig:
    sizes = {"layers": 3, "width": 16, "heads": 4, "vocab_size": 40, "max_length": SLOTS, "dropout": 0.0}
    return GptConfig(**{**sizes, "attention_dropout": 0.0, **changes})


def random_params(model: Model, batch: dict) -> dict:
    shapes, _ = split(jax.eval_shape(model.init, jax.random.key(0), batch)[0])
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), jnp.float32), shapes)


def prompts() -> dict[str, jax.Array]:
    tokens = np.random.default_rng(0).integers(40, size=(ROWS, LENGTH))
    return {"tokens": jnp.asarray(tokens), "mask": jnp.asarray(np.arange(LENGTH) >= PADDING[:, None])}


def assert_equal_to_whole(hidden: list[jax.Array], whole: jax.Array, mask: jax.Array) -> None:
    np.testing.assert_allclose(np.concatenate(hidden, 1)[mask], np.asarray(whole)[mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", cases(VARIANTS, ["gpt2", "modern"]))
def test_prompt_and_single_tokens_equal_the_whole_sequence(change):
    batch, chosen = prompts(), config(**change)
    model = chosen.build()
    params = random_params(model, batch)
    whole, _ = model.apply(params, {}, batch)
    first, _ = model.apply(params, {}, {name: x[:, :PROMPT] for name, x in batch.items()}, SLOTS)
    step = jax.jit(lambda tokens, cache: model.apply(params, {}, {"tokens": tokens}, cache)[0])
    cache, hidden = first["cache"], [first["hidden"]]
    for i in range(PROMPT, LENGTH):
        out = step(batch["tokens"][:, i : i + 1], cache)
        assert jax.tree.map(jnp.shape, out["cache"]) == jax.tree.map(jnp.shape, cache)
        hidden, cache = [*hidden, out["hidden"]], out["cache"]
    assert_equal_to_whole(hidden, whole["hidden"], batch["mask"])
    assert cache["index"] == LENGTH and (cache["mask"].sum(1) == LENGTH - PADDING).all()


def test_padding_on_the_left_does_not_change_a_row():
    batch, model = prompts(), config().build()
    params = random_params(model, batch)
    padded, _ = model.apply(params, {}, batch)
    for row, padding in enumerate(PADDING):
        alone, _ = model.apply(params, {}, {"tokens": batch["tokens"][row : row + 1, padding:]})
        np.testing.assert_allclose(padded["hidden"][row, padding:], alone["hidden"][0], rtol=0, atol=1e-5)


def test_a_cache_that_is_too_small_is_an_error():
    model, batch = config().build(), prompts()
    params = random_params(model, batch)
    with pytest.raises(ValueError, match="16 tokens exceed max_length 15"):
        model.apply(params, {}, batch, SLOTS + 1)
    with pytest.raises(ValueError, match="12 tokens do not fit into a cache of 8 slots"):
        model.apply(params, {}, batch, 8)


def test_the_cache_has_the_dtype_of_the_parameters():
    model, batch = config().build(), prompts()
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params(model, batch))
    cache = jax.eval_shape(lambda: model.apply(params, {}, batch, SLOTS))[0]["cache"]
    assert {leaf.dtype for leaf in jax.tree.leaves(cache["layers"])} == {jnp.dtype(jnp.bfloat16)}
