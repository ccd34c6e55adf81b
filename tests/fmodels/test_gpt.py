"""Sizes and attention of GPT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.axes import split
from fmodels.gpt import MODERN, SIZES, GptConfig, gpt

PUBLISHED = {
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}
# Brown et al. 2020, table 2.1, in units of the last printed digit.
ROUNDED = {
    "gpt3-small": (125, 1e6),
    "gpt3-medium": (356, 1e6),
    "gpt3-large": (760, 1e6),
    "gpt3-xl": (13, 1e8),
    "gpt3-2.7b": (27, 1e8),
    "gpt3-6.7b": (67, 1e8),
    "gpt3-13b": (13, 1e9),
    "gpt3-175b": (175, 1e9),
}


def parameters(config: GptConfig) -> int:
    params, state = jax.eval_shape(config.build().init, jax.random.key(0), {"tokens": jnp.zeros((1, 8), int)})
    assert state == {}
    return sum(leaf.size for leaf in jax.tree.leaves(split(params)[0]))


def test_published_parameter_counts():
    assert set(SIZES) == {*PUBLISHED, *ROUNDED}
    assert {size: parameters(gpt(size, scan=True)) for size in PUBLISHED} == PUBLISHED
    for size, (digits, unit) in ROUNDED.items():
        assert round(parameters(gpt(size, scan=True)) / unit) == digits, size
    assert parameters(gpt("gpt2-small", tied=False)) == PUBLISHED["gpt2-small"] + 50_257 * 768
    assert gpt("gpt2-small") == GptConfig()


def small(**changes) -> GptConfig:
    sizes = {"layers": 2, "width": 16, "heads": 4, "vocab_size": 40, "max_length": 16, "dropout": 0.0}
    return GptConfig(**{**sizes, "attention_dropout": 0.0, **changes})


def reached(config: GptConfig, batch: dict, at: int) -> np.ndarray:
    """Return where the hidden states change if the token at `at` changes."""
    rng, model = np.random.default_rng(0), config.build()
    shapes, _ = split(jax.eval_shape(model.init, jax.random.key(0), batch)[0])
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), jnp.float32), shapes)
    changed = {**batch, "tokens": batch["tokens"].at[:, at].add(1)}
    before, after = (model.apply(params, {}, inputs)[0]["hidden"] for inputs in (batch, changed))
    return np.asarray(jnp.abs(before - after).max((0, 2)) > 1e-6)


@pytest.mark.parametrize("change", [{}, MODERN, {"window": 20}, {"position": "alibi"}, {"position": "relative"}], ids=str)
def test_tokens_reach_later_tokens_only(change):
    batch = {"tokens": jnp.asarray(np.random.default_rng(0).integers(39, size=(2, 12)))}
    np.testing.assert_array_equal(reached(small(**change), batch, at=5), np.arange(12) >= 5)


@pytest.mark.parametrize("change", [{}, {**MODERN, "kv_heads": 2}, {"window": 20}, {"scan": True}], ids=str)
def test_packed_documents_do_not_reach_each_other(change):
    sequences, positions = [1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0, 0], [0, 1, 2, 0, 1, 2, 3, 0, 1, 0, 0, 0]
    batch = {
        "tokens": np.random.default_rng(0).integers(39, size=(2, 12)),
        "sequences": [sequences] * 2,
        "positions": [positions] * 2,
    }
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    for at in (1, 4, 7, 10):
        same = (np.array(sequences) == sequences[at]) & (np.arange(12) >= at)
        np.testing.assert_array_equal(reached(small(**change), batch, at), same)


def test_invalid_config_values_are_errors():
    with pytest.raises(ValueError, match=r"^position directional looks ahead, which a decoder cannot: choose alibi or relative$"):
        small(position="directional")
    with pytest.raises(ValueError, match=r"^vocab_size must be at least 1, not 0$"):
        small(vocab_size=0)
