"""Logical axes: names for the dimensions of parameters and activations.

Models name their dimensions (`embed`, `heads`, `mlp`, `vocab`); the rules of an experiment map these names to mesh axes.
Models do not know the mesh: the caller installs a `Layout` while it traces them. Without one, `constrain` is the identity.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta

Names = tuple[str | None, ...]


def vectors(table_VD: jax.Array, ids: jax.Array, fill_value: float = jnp.nan) -> jax.Array:
    """Return the rows of the table at `ids`; ids out of range give `fill_value`. The guard of a train step detects NaN."""
    return table_VD.at[ids].get(mode="fill", fill_value=fill_value, wrap_negative_indices=False)


def _look_up_locally(table_VD: jax.Array, names: Names, ids: jax.Array, batch_size: int) -> jax.Array:
    found = vectors(table_VD, ids)
    return jnp.broadcast_to(found, (batch_size, *found.shape[1:]))


@dataclass(frozen=True)
class Layout:
    """Target of a trace: the `platform` (`cpu`, `gpu`, `tpu`) that runs it, and implementations of `constrain` and `look_up`.

    The defaults are for a single device of the default platform."""

    platform: str | None = None
    constrain: Callable[[jax.Array, Names], jax.Array] = lambda x, names: x
    look_up: Callable[[jax.Array, Names, jax.Array, int], jax.Array] = _look_up_locally


_layout: ContextVar[Layout] = ContextVar("layout", default=Layout())  # noqa: B039, Layout is frozen


@contextmanager
def traced_for(layout: Layout) -> Iterator[None]:
    """Use `layout` for everything traced inside this context."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrain the sharding of an activation by its logical axes, one name per dimension; None: the dimension is not sharded."""
    return _layout.get().constrain(x, names)


def look_up(table_VD: jax.Array, names: Names, ids: jax.Array, batch_size: int) -> jax.Array:
    """Return the vectors [batch, …, D] of a table with logical axes `names`; NaN for ids out of range.

    `ids` is [batch, …], or [1, …] if all rows of the batch share the same ids."""
    return _layout.get().look_up(table_VD, names, ids, batch_size)


def target() -> str | None:
    """Return the target platform of the trace, or None outside of `traced_for`."""
    return _layout.get().platform


def platform() -> str:
    """Return the target platform of the trace, which may differ from the local platform."""
    return _layout.get().platform or jax.default_backend()


def named(init: Callable, *names: str | None) -> Callable:
    """Return an initializer that attaches the logical axes `names` to its parameter, one per dimension."""
    return nn.with_logical_partitioning(init, names)


def split(variables) -> tuple[dict, dict]:
    """Split an initialised tree into (plain arrays, the logical axes of each array as a tuple of names).

    Variables without axes (running statistics) get None for every dimension, so they are replicated on purpose.
    """
    is_box = lambda leaf: isinstance(leaf, meta.AxisMetadata)
    names = lambda leaf: tuple(leaf.names) if isinstance(leaf, nn.Partitioned) else (None,) * leaf.ndim
    return meta.unbox(variables), jax.tree.map(names, variables, is_leaf=is_box)
