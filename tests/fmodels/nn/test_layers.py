"""Layers against plain NumPy formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.nn.layers import ACTIVATIONS, Dense, Dropout, Embed, LayerNorm, RMSNorm, add_bias, linear, random_bits


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
    x = jnp.asarray(rows)
    got = jax.value_and_grad(ours, (0, 1))(params, x)
    want = jax.value_and_grad(plain, (0, 1))(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), got, want)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("widths", [(5, 9), (9, 5)])
@pytest.mark.parametrize("batch", [(), (7,), (2, 3, 4)])
def test_linear_and_its_gradients_match_plain_jax(batch, widths, use_bias):
    draw = np.random.default_rng(0).normal
    x, kernel, g = (jnp.asarray(draw(size=shape), jnp.float32) for shape in ((*batch, widths[0]), widths, (*batch, widths[1])))
    bias = jnp.asarray(draw(size=widths[1]), jnp.float32) if use_bias else None
    want, plain_vjp = jax.vjp(lambda x, kernel, bias: x @ kernel + (0 if bias is None else bias), x, kernel, bias)
    found, vjp = jax.vjp(linear, x, kernel, bias)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    same(found, want)
    jax.tree.map(same, vjp(g), plain_vjp(g))


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
    x = np.linspace(-5, 7, 41)
    want = {
        "gelu": x * 0.5 * (1 + np.array([math.erf(v / np.sqrt(2)) for v in x])),  # Hendrycks and Gimpel 2016
        "gelu_tanh": 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "relu": np.maximum(x, 0),
        "relu6": np.clip(x, 0, 6),
        "silu": x / (1 + np.exp(-x)),
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

    @pytest.mark.parametrize("rate", [0.001, 0.1, 0.25, 0.5, 0.9, 0.999])
    def test_share_and_scale(self, rate):
        y = np.asarray(self.dropped(rate))
        assert set(np.unique(y)) == {0.0, np.float32(1 / (1 - rate))}
        std = np.sqrt(rate * (1 - rate) / y.size)
        assert abs((y == 0).mean() - rate) < 4 * std
        for axis, count in ((1, 200), (0, 1000)):  # rows and columns have equal drop rates
            assert np.abs((y == 0).mean(axis) - rate).max() < 6 * std * np.sqrt(count) + 1 / (y.size / count)

    @pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1), (0, 64), (0, 512), (128, 0)])
    def test_entries_are_independent_of_their_neighbours(self, shift):
        dropped = np.asarray(self.dropped(0.3)) == 0
        both = dropped & np.roll(dropped, shift, (0, 1))
        assert abs(both.mean() - 0.3**2) < 4 * np.sqrt(0.09 * 0.91 / both.size)

    @pytest.mark.parametrize(
        "fold", [lambda k: jax.random.fold_in(k, 1), lambda k: jax.random.split(k)[1]], ids=["step", "layer"]
    )
    def test_keys_give_independent_entries(self, fold):
        """The train step folds the step number into the key, and Flax the path of the module."""
        key = jax.random.key(0)
        first, second = (np.asarray(random_bits(k, self.SHAPE)) < 0.3 * 2**32 for k in (key, fold(key)))
        both = first & second
        assert abs(both.mean() - 0.3**2) < 4 * np.sqrt(0.09 * 0.91 / both.size)
        np.testing.assert_array_equal(random_bits(key, self.SHAPE), random_bits(key, self.SHAPE))

    def test_every_bit_is_uniform(self):
        bits = np.asarray(random_bits(jax.random.key(3), self.SHAPE))
        shares = np.array([(bits >> bit & 1).mean() for bit in range(32)])
        assert np.abs(shares - 0.5).max() < 4.5 * 0.5 / np.sqrt(bits.size)
        assert len(np.unique(bits)) > 0.9999 * bits.size, "no more collisions than among random numbers of 32 bits"

    def test_rows_of_large_arrays_differ(self):
        """Attention dropout numbers its rows over three dimensions."""
        bits = np.asarray(random_bits(jax.random.key(0), (8, 4, 64, 32))).reshape(-1, 32)
        assert len(np.unique(bits, axis=0)) == len(bits)
        assert len(np.unique(np.sort(bits, axis=1)[:, 0])) > 0.999 * len(bits), "rows are not permutations of one another"

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
