"""Logical axes: the names by which models call their dimensions.

A model says what a dimension *is* (`embed`, `heads`, `mlp`, `vocab`); rules in the experiment say which mesh axis it lies on.
Models know nothing of meshes: whoever traces them installs a layout, and outside of one `constrain` is the identity.
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


def vectors(table_VD: jax.Array, ids: jax.Array, beyond: float = jnp.nan) -> jax.Array:
    """Those of the ids, and `beyond` where an id is not one of the table's, which the guard of a step then sees."""
    return table_VD.at[ids].get(mode="fill", fill_value=beyond, wrap_negative_indices=False)


def _looked_up(table_VD: jax.Array, names: Names, ids: jax.Array, batch_size: int) -> jax.Array:
    found = vectors(table_VD, ids)
    return jnp.broadcast_to(found, (batch_size, *found.shape[1:]))


@dataclass(frozen=True)
class Layout:
    """What a trace is for: the `platform` (`cpu`, `gpu`, `tpu`) that will compute it, and how `constrain` and `look_up` lay out
    what they make; by default on one device of those at hand."""

    platform: str | None = None
    constrain: Callable[[jax.Array, Names], jax.Array] = lambda x, names: x
    look_up: Callable[[jax.Array, Names, jax.Array, int], jax.Array] = _looked_up


_layout: ContextVar[Layout] = ContextVar("layout", default=Layout())  # noqa: B039, it is frozen


@contextmanager
def traced_for(layout: Layout) -> Iterator[None]:
    """While active, everything that is traced is laid out so."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Asks that the activation `x` be laid out by these logical axes, one a dimension; None is a dimension never sharded."""
    return _layout.get().constrain(x, names)


def look_up(table_VD: jax.Array, names: Names, ids: jax.Array, batch_size: int) -> jax.Array:
    """[batch, …, D]: the vectors of a table with the logical axes `names`, NaN for an id that is not in it. Of ids [batch, …],
    one row may be that of all: [1, …]."""
    return _layout.get().look_up(table_VD, names, ids, batch_size)


def target() -> str | None:
    """The platform that is traced for; None outside of `traced_for`."""
    return _layout.get().platform


def platform() -> str:
    """Of the devices that are traced for, which need not be those at hand."""
    return _layout.get().platform or jax.default_backend()


def named(init: Callable, *names: str | None) -> Callable:
    """An initializer whose parameter carries the logical axes `names`, one a dimension."""
    return nn.with_logical_partitioning(init, names)


def split(variables) -> tuple[dict, dict]:
    """Separates a freshly initialised tree: (plain arrays, the logical axes of each as a tuple of names).

    A variable that names no axes (running statistics) gets one None a dimension: replicated on purpose.
    """
    is_box = lambda leaf: isinstance(leaf, meta.AxisMetadata)
    names = lambda leaf: tuple(leaf.names) if isinstance(leaf, nn.Partitioned) else (None,) * leaf.ndim
    return meta.unbox(variables), jax.tree.map(names, variables, is_leaf=is_box)
