"""Cross-entropy and accuracy of a softmax over classes.

Shapes: ... any leading dimensions, V classes or vocabulary.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """Return the loss in nats and whether the target is the first largest logit, which is the prediction of `argmax`.

    The position comes from the maximum that the loss needs anyway: XLA's argmax is several times slower on CPU."""
    peak = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    shifted = logits - peak
    target = jnp.take_along_axis(shifted, targets[..., None], -1)[..., 0]
    losses = jnp.log(jnp.exp(shifted).sum(-1)) - target
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    first = jnp.where(logits == peak, classes, logits.shape[-1]).min(-1)
    return losses, first == targets
