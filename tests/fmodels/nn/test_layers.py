"""Layers against plain NumPy formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.nn.layers import ACTIVATIONS, Dense, Dropout, Embed, LayerNorm, RMSNorm, add_bias


@pytest.fixture
def rows() -> np.ndarray:
    """Return [4, 5, 24] values, far from zero mean and unit variance."""
    return np.random.default_rng(0).normal(3.0, 7.0, (4, 5, 24)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_norms_match_their_formulas(rows, dtype, tolerance):
    scale, bias = np.random.default_rng(1).normal(size=(2, 24)).astype(np.float32)
    x = jnp.asarray(rows, dtype)
    x64 = np.asarray(x, np.float64)

    y = LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    want = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(x64.var(-1, keepdims=True) + 1e-12) * scale + bias
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=tolerance, atol=tolerance)

    y = RMSNorm().apply({"params": {"scale": scale}}, x)
    want = x64 / np.sqrt((x64**2).mean(-1, keepdims=True) + 1e-6) * scale
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("norm", [LayerNorm(), RMSNorm()], ids=["layer", "rms"])
def test_norms_of_constant_rows_have_finite_gradients(norm):
    x = np.repeat(np.float32([[0], [1e-20], [1e4]]), 8, axis=1)
    params = {"params": {"scale": np.ones(8, np.float32), "bias": np.ones(8, np.float32)}}
    assert np.isfinite(jax.grad(lambda x: norm.apply(params, x).sum())(x)).all()


def test_dense_and_its_gradients_match_plain_jax(rows):
    kernel, bias = np.random.default_rng(1).normal(size=(24, 7)).astype(np.float32), np.arange(7, dtype=np.float32)
    params = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    dense = Dense(7, ("embed", "mlp"))
    ours = lambda p, x: jnp.sin(dense.apply({"params": p}, x)).sum()
    plain = lambda p, x: jnp.sin(x @ p["kernel"] + p["bias"]).sum()
    got = jax.value_and_grad(ours, (0, 1))(params, rows)
    want = jax.value_and_grad(plain, (0, 1))(params, rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), got, want)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4, 6)])
def test_add_bias_has_the_gradient_of_a_sum(shape):
    x, g, bias = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    bias = bias.reshape(-1, 6)[0]
    y, vjp = jax.vjp(add_bias, x, bias)
    np.testing.assert_array_equal(y, x + bias)
    dx, dbias = vjp(jnp.asarray(g))
    np.testing.assert_array_equal(dx, g)
    np.testing.assert_allclose(dbias, g.reshape(-1, 6).sum(0), rtol=1e-5, atol=1e-5)


def test_embed_returns_table_rows():
    table, ids = np.arange(12.0, dtype=np.float32).reshape(4, 3), np.array([[3, 0]])
    found = Embed(4, 3).apply({"params": {"embedding": jnp.asarray(table)}}, jnp.asarray(ids))
    np.testing.assert_array_equal(found, table[ids])


def test_activations_match_their_formulas():
    x = np.linspace(-5, 5, 41)
    want = {
        "gelu": x * 0.5 * (1 + np.array([math.erf(v / np.sqrt(2)) for v in x])),  # Hendrycks and Gimpel 2016
        "gelu_tanh": 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "relu": np.maximum(x, 0),
        "tanh": np.tanh(x),
        "sigmoid": 1 / (1 + np.exp(-x)),
    }
    assert set(ACTIVATIONS) == set(want)
    for name, activation in ACTIVATIONS.items():
        np.testing.assert_allclose(activation(jnp.asarray(x, jnp.float32)), want[name], rtol=0, atol=1e-6, err_msg=name)


class TestDropout:
    SHAPE = (200, 1000)

    def dropped(self, rate: float, seed: int = 0, dtype=jnp.float32, train: bool = True) -> jax.Array:
        return Dropout(rate).apply({}, jnp.ones(self.SHAPE, dtype), train, rngs={"dropout": jax.random.key(seed)})

    @pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9, 0.999])
    def test_share_and_scale(self, rate):
        y = np.asarray(self.dropped(rate))
        share = min(round(256 * rate), 255) / 256
        assert abs(share - rate) <= 1 / 256
        assert set(np.unique(y)) == {0.0, np.float32(1 / (1 - share))}, "the scale uses the rounded rate: exact expectation"
        std = np.sqrt(share * (1 - share) / y.size)
        assert abs((y == 0).mean() - share) < 4 * std
        by_row = (y == 0).mean(1)  # rows have equal drop rates
        assert np.abs(by_row - share).max() < 6 * std * np.sqrt(len(y))

    def test_the_key_determines_the_dropped_entries(self):
        np.testing.assert_array_equal(self.dropped(0.3, seed=1), self.dropped(0.3, seed=1))
        both = np.asarray((self.dropped(0.3, seed=1) == 0) & (self.dropped(0.3, seed=2) == 0))
        assert abs(both.mean() - (77 / 256) ** 2) < 0.005, "different keys are independent"

    def test_dtype_is_preserved(self):
        assert self.dropped(0.1, dtype=jnp.bfloat16).dtype == jnp.bfloat16

    def test_identity_without_training_or_at_rate_zero(self):
        x = jnp.ones((3, 4))
        np.testing.assert_array_equal(Dropout(0.5).apply({}, x, False), x)  # needs no key
        np.testing.assert_array_equal(Dropout(0.0).apply({}, x, True), x)

    def test_gradient_has_the_mask_of_the_values(self):
        key, x = {"dropout": jax.random.key(0)}, jnp.ones((20, 30))
        drop = lambda x: Dropout(0.4).apply({}, x, True, rngs=key)
        np.testing.assert_array_equal(jax.grad(lambda x: drop(x).sum())(x), drop(x))
