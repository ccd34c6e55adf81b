"""Chunked cross-entropy has the loss and gradients of the whole one, in less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.objectives.causal_lm import CausalLM
from train.objectives.cross_entropy import cross_entropy, sums_in_chunks, tied_logits
from train.objectives.masked_lm import MaskedLM

ROWS, LENGTH, WIDTH, VOCABULARY = 3, 11, 8, 29


def inputs() -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    hidden, embedding = rng.normal(size=(ROWS, LENGTH, WIDTH)), rng.normal(size=(VOCABULARY, WIDTH))
    targets, weights = (
        rng.integers(VOCABULARY, size=(ROWS, LENGTH)),
        rng.random((ROWS, LENGTH)) * (rng.random((ROWS, LENGTH)) > 0.3),
    )
    return jnp.float32(hidden), jnp.float32(embedding), jnp.int32(targets), jnp.float32(weights)


def sums(hidden, embedding, targets, weights, chunk):
    return sums_in_chunks(partial(tied_logits, embedding_VD=embedding), hidden, targets, weights, chunk)


@pytest.mark.parametrize("chunk", [1, 4, 10, 11, 40])
def test_chunks_have_the_loss_and_gradients_of_the_whole(chunk):
    hidden, embedding, targets, weights = inputs()

    def whole(hidden, embedding):
        logits = hidden @ embedding.T
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return (losses * weights).sum(), ((logits.argmax(-1) == targets) * weights).sum()

    run = lambda function: jax.value_and_grad(function, (0, 1), has_aux=True)(hidden, embedding)
    chunked = run(lambda hidden, embedding: sums(hidden, embedding, targets, weights, chunk))
    for found, wanted in zip(jax.tree.leaves(chunked), jax.tree.leaves(run(whole)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert chunked[0][1] > 0


def test_the_prediction_is_the_first_of_equal_logits():
    logits = jnp.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    losses, hits = cross_entropy(logits, jnp.array([1, 1]))
    assert hits.tolist() == [True, False]
    np.testing.assert_allclose(losses, optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array([1, 1])), rtol=1e-6)


def test_chunks_need_less_memory():
    """Logits of 2 rows x 64 positions x 4,096 tokens are 2 MiB in float32."""
    shapes = [((2, 64, 8), jnp.float32), ((4096, 8), jnp.float32), ((2, 64), jnp.int32), ((2, 64), jnp.float32)]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

    def temporaries(chunk: int | None) -> int:
        step = jax.jit(jax.grad(lambda *x: sums(*x, chunk)[0], (0, 1)))
        return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(4) < temporaries(None) - 2**21


@pytest.mark.parametrize("objective", [CausalLM, MaskedLM])
def test_a_chunk_without_positions_is_an_error(objective):
    with pytest.raises(ValueError, match=r"^logits_chunk must be at least 1, or None for all positions, not 0$"):
        objective(logits_chunk=0)
