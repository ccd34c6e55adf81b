"""Cross-entropy and accuracy of a softmax over classes, whole or in chunks.

Shapes: ... any leading dimensions, B batch, T positions, D model width, V classes or vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmodels.axes import constrain


def cross_entropy(logits: jax.Array, targets: jax.Array, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Return the loss [...] in nats of logits [..., V], and whether the target is the first largest logit, as in `argmax`.

    `smoothing` is the share of the target probability spread over all classes (Szegedy et al. 2016, §7).

    The position comes from the maximum that the loss needs anyway: XLA's argmax is several times slower on CPU."""
    peak = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    shifted = logits - peak
    target = jnp.take_along_axis(shifted, targets[..., None], -1)[..., 0]
    if smoothing:
        target = (1 - smoothing) * target + smoothing * shifted.mean(-1)
    losses = jnp.log(jnp.exp(shifted).sum(-1)) - target
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    first = jnp.where(logits == peak, classes, logits.shape[-1]).min(-1)
    return losses, first == targets


def sums_in_chunks(
    logits: Callable[[jax.Array], jax.Array],
    hidden_BTD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    chunk: int | None = None,
    smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Return the weighted sums of the loss and of the hits, two scalars.

    `logits` maps hidden states to float32 logits [B, T, V]. With `chunk`, the logits of that many positions of each row are in
    memory at a time, and are recomputed in the backward pass."""

    def sums(hidden_BTD, targets_BT, weights_BT):
        losses_BT, hits_BT = cross_entropy(logits(hidden_BTD), targets_BT, smoothing)
        return (losses_BT * weights_BT).sum(), (hits_BT * weights_BT).sum()

    length = targets_BT.shape[1]
    if chunk is None or chunk >= length:
        return sums(hidden_BTD, targets_BT, weights_BT)

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, -length % chunk), *[(0, 0)] * (x.ndim - 2)])  # padding has weight 0
        return constrain(x.reshape(len(x), -1, chunk, *x.shape[2:]).swapaxes(0, 1), None, "batch", *(None,) * (x.ndim - 1))

    parts = (split(hidden_BTD), split(targets_BT), split(weights_BT))
    losses, hits = jax.lax.map(lambda part: jax.checkpoint(sums)(*part), parts)
    return losses.sum(), hits.sum()


def tied_logits(hidden_BTD: jax.Array, embedding_VD: jax.Array) -> jax.Array:
    """Return the logits [B, T, V] in float32: the product with an output embedding."""
    logits_BTV = jnp.einsum("BTD,VD->BTV", hidden_BTD, embedding_VD, preferred_element_type=jnp.float32)
    return constrain(logits_BTV, "batch", None, "vocab")


def check_chunk(chunk: int | None) -> None:
    """Raises ValueError for a `logits_chunk` that is not a number of positions."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"logits_chunk must be at least 1, or None for all positions, not {chunk}")
