"""Device meshes, rules that map logical axes to mesh axes, and the resulting shardings.

Nothing is replicated by accident: a logical axis without a rule, or a dimension not divisible by its mesh axes, is an error.
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

# From the axis with the least communication to the axis with the most.
AXES = ("replica", "data", "fsdp", "tensor")
Rules = Mapping[str, tuple[str, ...]]

# Logical axis -> mesh axes that shard it; (): replicated on purpose.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("replica", "data", "fsdp"),  # fsdp also shards the parameters
    "length": (),
    "layers": (),
    "pixels": (),  # small, and rarely divisible by a mesh axis
    "embed": ("fsdp",),
    "channels": ("fsdp", "tensor"),  # of convolution kernels; each device gathers them for its rows
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Number of devices along each mesh axis. One axis may be -1: all remaining devices. A model with a new logical axis needs a
    rule for it: `Mesh(rules={**RULES, "experts": ("tensor",)})`.

    With several slices (TPU) or nodes (GPU), the first axes cross the slow network between them. For example, `replica` over the
    slices and `fsdp` within each slice gives every slice one sharded copy of the model."""

    replica: int = 1
    "number of data-parallel model copies across a slow network"
    data: int = -1
    "number of data-parallel model copies within a replica"
    fsdp: int = 1
    "number of shards of parameters, optimizer moments and the batch"
    tensor: int = 1
    "number of shards of heads, MLPs, vocabularies and channels"
    rules: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(RULES))
    "mesh axes that shard each logical axis"

    def __post_init__(self):
        sizes = [getattr(self, axis) for axis in AXES]
        for axis, size in zip(AXES, sizes, strict=True):
            if size < 1 and size != -1:
                raise ValueError(f"{axis} must be at least 1, or -1 for all remaining devices, not {size}")
        if sizes.count(-1) > 1:
            automatic = " and ".join(axis for axis, size in zip(AXES, sizes, strict=True) if size == -1)
            raise ValueError(f"{automatic} are -1; at most one axis may be -1")
        if "batch" not in self.rules:
            raise ValueError("rules must include batch")
        for name, axes in self.rules.items():
            for axis in axes:
                if axis not in AXES:
                    raise ValueError(f"rules.{name}: unknown mesh axis {axis!r}{nearest(axis, AXES)}")
            if len(set(axes)) < len(axes):
                raise ValueError(f"rules.{name} must name each mesh axis at most once, not {' '.join(axes)}")

    def build(self, devices: list | None = None) -> jax.sharding.Mesh:
        """Return the mesh over `devices` (default: all). Raises UserError if the sizes do not fit them."""
        devices = jax.devices() if devices is None else devices
        sizes = {axis: getattr(self, axis) for axis in AXES}
        fixed = math.prod(size for size in sizes.values() if size != -1)
        filled = {axis: len(devices) // fixed if size == -1 else size for axis, size in sizes.items()}
        if math.prod(filled.values()) != len(devices):
            available = f"{len(devices)} {devices[0].platform} device(s)"
            given = f"the given sizes multiply to {fixed}"
            advice = given if -1 in sizes.values() else f"{given}; set one --mesh.AXIS to -1 for all remaining devices"
            raise UserError(f"mesh: {mesh_text(sizes)} does not fit {available}; {advice}")
        return jax.sharding.Mesh(device_array(tuple(filled.values()), devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_text(sizes: Mapping[str, int]) -> str:
    """Return mesh sizes as text, such as `data 4 x tensor 2`."""
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items())


def device_array(sizes: tuple[int, ...], devices: list) -> np.ndarray:
    """Return the devices as an array of shape `sizes`, with neighbours along the last dimensions. Raises UserError if the tensor
    axis would cross the network between slices."""
    from jax.experimental import mesh_utils

    slices = left = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if len(set(Counter(device.slice_index for device in devices).values())) > 1:
        raise UserError(f"mesh: the {slices} slices differ in their number of devices")
    across = []
    for size in sizes[: AXES.index("tensor")]:
        across.append(math.gcd(size, left))
        left //= across[-1]
    if left > 1:
        wanted = mesh_text(dict(zip(AXES, sizes, strict=True)))
        raise UserError(f"mesh: {wanted}: replica x data x fsdp must be a multiple of the number of slices, {slices}")
    within = tuple(size // ways for size, ways in zip(sizes, (*across, 1), strict=True))
    return mesh_utils.create_hybrid_device_mesh(within, (*across, 1), devices, allow_split_physical_axes=True)


def spec(mesh: jax.sharding.Mesh, rules: Rules, names: Names, shape: tuple[int, ...], what: str) -> PartitionSpec:
    """Return the PartitionSpec of an array of `shape` with logical axes `names`. Each mesh axis shards only the first dimension
    that maps to it. Raises UserError, starting with `what`, for a name without a rule or an indivisible dimension."""
    taken: set[str] = set()
    parts = []
    for name, size in zip(names, shape, strict=True):
        if name is not None and name not in rules:
            raise UserError(f"{what} {list(shape)}: unknown logical axis {name!r}{nearest(name, rules)}")
        requested = rules[name] if name is not None else ()
        axes = tuple(axis for axis in requested if mesh.shape[axis] > 1 and axis not in taken)
        ways = math.prod(mesh.shape[axis] for axis in axes)
        if size % ways:
            raise UserError(
                f"{what} {list(shape)}: dimension {name!r} of size {size} is not divisible by {ways}, "
                f"the size of mesh axis {' x '.join(axes)}; choose a multiple, or a smaller mesh.{axes[0]}"
            )
        taken |= set(axes)
        parts.append(axes if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*parts)


def why_replicated(mesh: jax.sharding.Mesh, rules: Rules, names: Names) -> str:
    """Return the reason why an array with logical axes `names` is replicated."""

    def reason(name: str | None) -> str:
        if name is None:
            return "unnamed dimension"
        return f"{name} is on {', '.join(rules[name])} of size 1" if rules[name] else f"{name} is replicated by its rule"

    return "; ".join(dict.fromkeys(map(reason, names))) or "scalar"


def shardings(mesh: jax.sharding.Mesh, rules: Rules, shapes: Any, names: Any) -> Any:
    """Return the sharding of every leaf of `shapes` from the logical axes in `names`, a tree of the same structure."""

    def place(path, leaf, axes):
        return NamedSharding(mesh, spec(mesh, rules, axes, leaf.shape, jax.tree_util.keystr(path, simple=True, separator="/")))

    return jax.tree_util.tree_map_with_path(place, shapes, names)


def like_params(tree: Any, params: Any, placed: Any, replicated: NamedSharding) -> Any:
    """Return the shardings of an optimizer state: moments like their parameters, other leaves `replicated`."""
    owners = moments(tree, params)
    param_shardings = dict(zip(by_name(params), jax.tree.leaves(placed), strict=True))
    leaves = [param_shardings.get(owners[name], replicated) for name in by_name(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def moments(tree: Any, params: Any) -> dict[str, str]:
    """Map each leaf of an optimizer state to the name of its parameter, or to "" if it is not a moment. The path of a moment ends
    in the parameter name, and the shapes are equal."""
    shapes, found = {name: leaf.shape for name, leaf in by_name(params).items()}, {}
    for name, leaf in by_name(tree).items():
        parts = name.split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        found[name] = next((end for end in ends if shapes.get(end) == leaf.shape), "")
    return found


def by_name(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by path, such as `model/dense/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def check_rules(rules: Rules, used: set[str | None]) -> None:
    """Raise UserError for a user's rule with a logical axis that is not in `used`."""
    for name in sorted(rules.keys() - RULES.keys() - used):
        raise UserError(f"mesh.rules: no array has the logical axis {name!r}{nearest(name, {*RULES, *used} - {None})}")


def activations(mesh: jax.sharding.Mesh, rules: Rules) -> tuple[Layout, set[str | None]]:
    """Return the layout for tracing a step, and a set. A trace for several devices adds the logical axes of activations to it."""
    platform, used = mesh.devices.flat[0].platform, set[str | None]()
    if mesh.size == 1:
        return Layout(platform), used

    def place(x: jax.Array, names: Names) -> jax.Array:
        used.update(names)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(mesh, rules, names, x.shape, "activation")))

    def look_up(table_VD: jax.Array, names: Names, ids: jax.Array, batch_size: int) -> jax.Array:
        """Look up vectors with `shard_map`, since the partitioner chooses an inefficient layout.

        A table sharded over batch axes is gathered, and each device looks up the ids of its own batch rows. Gradients are
        reduce-scattered, then summed over copies. If other axes shard its rows, it is not gathered: each device looks up ids
        in its shard, and the results are summed."""
        batch = rules["batch"]
        placed = [(axes,) if isinstance(axes, str) else axes or () for axes in spec(mesh, rules, names, table_VD.shape, "table")]
        gathered, width = (tuple(axis for axis in axes if axis in batch) for axes in placed)  # the partitioner gathers others
        split = () if gathered else placed[0]
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

        size, ids_spec = len(table_VD), PartitionSpec(batch if len(ids) == batch_size else None)
        table_spec = PartitionSpec(gathered or split or None, width or None)
        return jax.shard_map(local, mesh=mesh, in_specs=(table_spec, ids_spec), out_specs=PartitionSpec(batch))(table_VD, ids)

    return Layout(platform, place, look_up), used


def parts(mesh: jax.sharding.Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Return a sharding over as many devices as the shape allows, for large arrays without logical axes."""
    split: list[tuple[str, ...]] = [()] * len(shape)
    for axis in mesh.axis_names:
        for i, size in enumerate(shape):
            if size % math.prod(mesh.shape[a] for a in (*split[i], axis)) == 0:
                split[i] += (axis,)
                break
    return NamedSharding(mesh, PartitionSpec(*(axes or None for axes in split)))


def batch_sharding(mesh: jax.sharding.Mesh, rules: Rules) -> NamedSharding:
    """Return the sharding of the arrays of a batch: the first dimension by the rule for `batch`, the rest replicated."""
    return NamedSharding(mesh, PartitionSpec(rules["batch"]))


def own_rows(rows: NamedSharding, batch_size: int) -> np.ndarray:
    """Return the indices of the batch rows on the devices of this process, ascending."""
    held = rows.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


def put_batch(batch: Mapping[str, np.ndarray], rows: NamedSharding, batch_size: int, own: np.ndarray) -> dict[str, jax.Array]:
    """Return a batch as global arrays; every process provides its `own` rows."""
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
    """Return the number of shards of a batch."""
    return math.prod(mesh.shape[axis] for axis in rules["batch"])


def check_batch(mesh: jax.sharding.Mesh, rules: Rules, batch_size: int, accumulation: int) -> None:
    """Raise UserError unless every device gets the same number of rows of every microbatch."""
    ways = batch_ways(mesh, rules)
    if batch_size % (ways * accumulation):
        micro = f" in each of {accumulation} microbatches" if accumulation > 1 else ""
        raise UserError(
            f"data.batch_size {batch_size} does not divide over {ways} device(s) along {' x '.join(rules['batch'])}{micro}: "
            f"it must be a multiple of {ways * accumulation}"
        )
