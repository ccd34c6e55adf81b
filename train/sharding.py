"""Which device holds which part: the mesh, the rules from logical axes to mesh axes, and strict errors.

Nothing is replicated by accident: a logical axis without a rule, or a dimension that does not divide its mesh axes, is an error.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fmodels.axes import Layout, Names, vectors
from train.errors import UserError, nearest

# From the axis that can bear the slowest network to the one that needs the fastest.
AXES = ("replica", "data", "fsdp", "tensor")
Rules = Mapping[str, tuple[str, ...]]

# Logical axis -> mesh axes that split it. None of them: deliberately whole on every device.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("replica", "data", "fsdp"),  # fsdp splits the parameters as well
    "length": (),
    "layers": (),
    "pixels": (),  # of an image: few, and rarely a multiple of anything
    "embed": ("fsdp",),
    "channels": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices along each axis; one axis may be -1, which takes all that the others leave. A model with a logical axis of its own
    brings a rule for it: `Mesh(rules={**RULES, "experts": ("tensor",)})`.

    Devices in several slices (TPU) or nodes (GPU) are laid out so that the first axes cross the slow network between them:
    `replica` times `fsdp` is a copy of the model in every slice, each in parts."""

    replica: int = 1
    "copies of the model, each with its part of the batch, where there is a slow network between them"
    data: int = -1
    "copies of the model, each with its part of the batch, within a replica"
    fsdp: int = 1
    "ways to split parameters, their moments and the batch"
    tensor: int = 1
    "ways to split heads, MLPs and the vocabulary"
    rules: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(RULES))
    "mesh axes that split each logical axis"

    def __post_init__(self):
        sizes = [getattr(self, axis) for axis in AXES]
        for axis, size in zip(AXES, sizes, strict=True):
            if size < 1 and size != -1:
                raise ValueError(f"{axis} must be at least 1, or -1 to take the devices that are left, not {size}")
        if sizes.count(-1) > 1:
            filling = " and ".join(axis for axis, size in zip(AXES, sizes, strict=True) if size == -1)
            raise ValueError(f"{filling} are -1; one axis at most takes the devices that are left")
        if "batch" not in self.rules:
            raise ValueError("rules must have one for batch")
        for name, axes in self.rules.items():
            for axis in axes:
                if axis not in AXES:
                    raise ValueError(f"rules.{name}: there is no mesh axis {axis!r}{nearest(axis, AXES)}")
            if len(set(axes)) < len(axes):
                raise ValueError(f"rules.{name} must name each mesh axis once, not {' '.join(axes)}")

    def build(self, devices: list | None = None) -> jax.sharding.Mesh:
        """The mesh over `devices` (all there are). Raises UserError if they cannot be laid out so."""
        devices = jax.devices() if devices is None else devices
        sizes = {axis: getattr(self, axis) for axis in AXES}
        fixed = math.prod(size for size in sizes.values() if size != -1)
        filled = {axis: len(devices) // fixed if size == -1 else size for axis, size in sizes.items()}
        if math.prod(filled.values()) != len(devices):
            there = f"{len(devices)} {devices[0].platform} device(s)"
            advice = (
                f"what is given makes {fixed}" if -1 in sizes.values() else "--mesh.AXIS changes one, and -1 takes what is left"
            )
            raise UserError(f"mesh: {said(sizes)} does not fit {there}; {advice}")
        return jax.sharding.Mesh(arranged(tuple(filled.values()), devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def said(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items())


def arranged(sizes: tuple[int, ...], devices: list) -> np.ndarray:
    """The devices as an array of `sizes`, neighbours in the last dimensions. Raises UserError where the tensor axis would have to
    cross the network between slices."""
    from jax.experimental import mesh_utils

    slices = left = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if len(set(Counter(device.slice_index for device in devices).values())) > 1:
        raise UserError(f"mesh: the {slices} slices that the devices are in are not of one size")
    across = []
    for size in sizes[: AXES.index("tensor")]:
        across.append(math.gcd(size, left))
        left //= across[-1]
    if left > 1:
        wanted = said(dict(zip(AXES, sizes, strict=True)))
        raise UserError(f"mesh: {wanted}: replica, data and fsdp must divide by the {slices} slices that the devices are in")
    within = tuple(size // ways for size, ways in zip(sizes, (*across, 1), strict=True))
    return mesh_utils.create_hybrid_device_mesh(within, (*across, 1), devices, allow_split_physical_axes=True)


def spec(mesh: jax.sharding.Mesh, rules: Rules, names: Names, shape: tuple[int, ...], what: str) -> PartitionSpec:
    """The partition of an array of `shape` whose dimensions are called `names`. A mesh axis is used once, by the first dimension
    that asks for it. Raises UserError, naming `what`, for a name without a rule or a dimension that does not divide."""
    taken: set[str] = set()
    parts = []
    for name, size in zip(names, shape, strict=True):
        if name is not None and name not in rules:
            raise UserError(f"{what} {list(shape)}: unknown logical axis {name!r}{nearest(name, rules)}")
        wanted = rules[name] if name is not None else ()
        axes = tuple(axis for axis in wanted if mesh.shape[axis] > 1 and axis not in taken)
        ways = math.prod(mesh.shape[axis] for axis in axes)
        if size % ways:
            raise UserError(
                f"{what} {list(shape)}: dimension {name!r} of {size} does not divide by {ways}, "
                f"the size of mesh axis {' x '.join(axes)}; choose a multiple, or a smaller mesh.{axes[0]}"
            )
        taken |= set(axes)
        parts.append(axes if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*parts)


def whole_because(mesh: jax.sharding.Mesh, rules: Rules, names: Names) -> str:
    """Why nothing splits an array whose dimensions are called `names`."""

    def reason(name: str | None) -> str:
        if name is None:
            return "a dimension without a name"
        return f"{name} is on {', '.join(rules[name])}, of size 1" if rules[name] else f"{name} is whole by its rule"

    return "; ".join(dict.fromkeys(map(reason, names))) or "a single number"


def shardings(mesh: jax.sharding.Mesh, rules: Rules, shapes: Any, names: Any) -> Any:
    """The sharding of every leaf of `shapes` by the logical axes in `names`, a tree of the same structure."""

    def place(path, leaf, axes):
        return NamedSharding(mesh, spec(mesh, rules, axes, leaf.shape, jax.tree_util.keystr(path, simple=True, separator="/")))

    return jax.tree_util.tree_map_with_path(place, shapes, names)


def like_params(tree: Any, params: Any, placed: Any, whole: NamedSharding) -> Any:
    """The shardings of an optimizer state: a moment lies where its parameter does; the rest is `whole`."""
    owners = moments(tree, params)
    of_params = dict(zip(by_name(params), jax.tree.leaves(placed), strict=True))
    leaves = [of_params.get(owners[name], whole) for name in by_name(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def moments(tree: Any, params: Any) -> dict[str, str]:
    """Of each leaf of an optimizer state, the parameter of which it is a moment, since its path ends in that one's name, and it
    has its shape; empty where there is none."""
    shapes, found = {name: leaf.shape for name, leaf in by_name(params).items()}, {}
    for name, leaf in by_name(tree).items():
        parts = name.split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        found[name] = next((end for end in ends if shapes.get(end) == leaf.shape), "")
    return found


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths: `model/dense/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def check_rules(rules: Rules, used: set[str | None]) -> None:
    """Raises UserError for a rule of the user's own whose axis is not among those `used`: it has a name that nobody reads."""
    for name in sorted(rules.keys() - RULES.keys() - used):
        raise UserError(f"mesh.rules: nothing has the logical axis {name!r}{nearest(name, {*RULES, *used} - {None})}")


def activations(mesh: jax.sharding.Mesh, rules: Rules) -> tuple[Layout, set[str | None]]:
    """What a step is traced for, and the names of the axes that activations have, as far as any was traced on several devices."""
    platform, used = mesh.devices.flat[0].platform, set[str | None]()
    if mesh.size == 1:
        return Layout(platform), used

    def place(x: jax.Array, names: Names) -> jax.Array:
        used.update(names)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(mesh, rules, names, x.shape, "activation")))

    def look_up(table_VD: jax.Array, names: Names, ids: jax.Array, batch_size: int) -> jax.Array:
        """Said device by device, since the partitioner finds no good layout for it. Each gathers the vectors whole and finds
        those of its rows; what it adds to their gradient is scattered again before it is summed over copies. Of a vocabulary that
        is split otherwise than the batch, each finds what it has, and the sum over them is all."""
        batch = rules["batch"]
        own = [(axes,) if isinstance(axes, str) else axes or () for axes in spec(mesh, rules, names, table_VD.shape, "table")]
        gathered, width = (tuple(axis for axis in axes if axis in batch) for axes in own)  # the partitioner gathers the rest
        split = () if gathered else own[0]
        copies = tuple(axis for axis in batch if axis not in (*gathered, *width))

        def local(table_VD: jax.Array, ids: jax.Array) -> jax.Array:
            table_VD = jax.lax.pcast(table_VD, copies, to="varying")
            for axes, dimension in ((gathered, 0), (width, 1)):
                if axes:
                    table_VD = jax.lax.all_gather(table_VD, axes, axis=dimension, tiled=True)
            if split:
                found = vectors(table_VD, ids - len(table_VD) * jax.lax.axis_index(split), fill_value=0.0)
                found = jnp.where(((ids >= 0) & (ids < size))[..., None], jax.lax.psum(found, split), jnp.nan)
            else:
                found = vectors(table_VD, ids)
            return jnp.broadcast_to(found, (batch_size // batch_ways(mesh, rules), *found.shape[1:]))

        size, of_ids = len(table_VD), PartitionSpec(batch if len(ids) == batch_size else None)
        of_table = PartitionSpec(gathered or split or None, width or None)
        return jax.shard_map(local, mesh=mesh, in_specs=(of_table, of_ids), out_specs=PartitionSpec(batch))(table_VD, ids)

    return Layout(platform, place, look_up), used


def parts(mesh: jax.sharding.Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """An array in as many parts as its dimensions divide into, for where nothing is known of it but that it may be large."""
    on: list[tuple[str, ...]] = [()] * len(shape)
    for axis in mesh.axis_names:
        for i, size in enumerate(shape):
            if size % math.prod(mesh.shape[a] for a in (*on[i], axis)) == 0:
                on[i] += (axis,)
                break
    return NamedSharding(mesh, PartitionSpec(*(axes or None for axes in on)))


def batch_sharding(mesh: jax.sharding.Mesh, rules: Rules) -> NamedSharding:
    """The first dimension of every array of a batch as the rule for `batch` says, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(rules["batch"]))


def own_rows(rows: NamedSharding, batch_size: int) -> np.ndarray:
    """The places in a batch of those rows that the devices of this process hold, ascending."""
    held = rows.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


def laid(batch: Mapping[str, np.ndarray], rows: NamedSharding, batch_size: int, own: np.ndarray) -> dict[str, jax.Array]:
    """A batch on the devices, of which every process gives its `own` rows."""
    if rows.is_fully_addressable:
        return jax.device_put(dict(batch), rows)

    def place(x: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            first = np.searchsorted(own, start)
            return x[first : first + stop - start]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), rows, part)

    return {name: place(x) for name, x in batch.items()}


def batch_ways(mesh: jax.sharding.Mesh, rules: Rules) -> int:
    """Parts that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in rules["batch"])


def check_batch(mesh: jax.sharding.Mesh, rules: Rules, batch_size: int, accumulation: int) -> None:
    """Raises UserError unless every device gets the same number of rows of every microbatch."""
    ways = batch_ways(mesh, rules)
    if batch_size % (ways * accumulation):
        micro = f" in each of {accumulation} microbatches" if accumulation > 1 else ""
        raise UserError(
            f"data.batch_size {batch_size} does not divide over {ways} device(s) along {' x '.join(rules['batch'])}{micro}: "
            f"it must be a multiple of {ways * accumulation}"
        )
