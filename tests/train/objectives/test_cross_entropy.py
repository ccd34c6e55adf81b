"""Cross-entropy and accuracy against Optax and argmax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.objectives.cross_entropy import cross_entropy


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 4, 50)])
def test_loss_and_gradient_match_optax(shape):
    logits = jnp.asarray(np.random.default_rng(0).normal(0.0, 8.0, shape), jnp.float32)
    targets = jnp.asarray(np.random.default_rng(1).integers(shape[-1], size=shape[:-1]))
    ours = jax.jit(jax.value_and_grad(lambda x: cross_entropy(x, targets)[0].sum()))(logits)
    peer = optax.softmax_cross_entropy_with_integer_labels
    theirs = jax.jit(jax.value_and_grad(lambda x: peer(x, targets).sum()))(logits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), ours, theirs)


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_a_large_offset_loses_no_precision(offset):
    logits = np.random.default_rng(0).normal(offset, 8.0, 50).astype(np.float32)
    exact = logits.astype(np.float64)
    want = np.log(np.exp(exact - exact.max()).sum()) + exact.max() - exact[3]
    np.testing.assert_allclose(cross_entropy(jnp.asarray(logits), jnp.asarray(3))[0], want, rtol=1e-6)


def test_accuracy_is_that_of_argmax():
    logits = np.random.default_rng(0).integers(3, size=(1000, 5)).astype(np.float32)  # with many ties
    targets = np.random.default_rng(1).integers(5, size=1000)
    _, is_right = cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
    np.testing.assert_array_equal(is_right, logits.argmax(-1) == targets)


def test_no_prediction_is_right_for_logits_that_are_not_a_number():
    _, is_right = cross_entropy(jnp.full((2, 3), jnp.nan), jnp.zeros(2, jnp.int32))
    assert not is_right.any()
