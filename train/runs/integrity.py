"""Verify checkpoints: checksums, and the distinction between damaged files and other failures to read them."""

import errno
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CoroutineType, MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from train import cluster, sharding
from train.errors import UserError
from train.sharding import by_name

FORMAT = 1  # version of the checkpoint format; increment when older code cannot read it
# Errors of the operating system other than damage.
NOT_DAMAGE = "EACCES EPERM EIO ESTALE ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENOTCONN ECONNRESET EREMOTEIO EMFILE ENFILE ENOMEM"
UNREADABLE = {os.strerror(getattr(errno, name)) for name in NOT_DAMAGE.split() if hasattr(errno, name)}


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """Return a uint32 checksum: each 32-bit word times an odd weight that grows with its index in the array, summed mod 2^32.

    Indices are computed on the device that holds the words, so no array is gathered.
    """

    def leaf_sum(leaf: jax.Array) -> jax.Array:
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        bits = (leaf if leaf.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(leaf, unsigned)).astype(jnp.uint32)
        index = jnp.uint32(0)
        for dimension, size in enumerate(bits.shape):  # row-major order
            index = index * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dimension)
        return jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)

    # Sort by name: a named tuple is read back as a dict, whose leaves may have another order.
    leaves = sorted(by_name(tree).items(), key=lambda item: item[0].split("/"))
    words = jnp.stack([leaf_sum(leaf) for _, leaf in leaves])
    return jnp.sum(words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)


def attempt(folder: Path, read: Callable[[], Any]) -> tuple[Any, str]:
    """Return (result of `read`, ""), or (None, reason) if the checkpoint is damaged.

    Raises UserError if it cannot be read for another reason: a newer format, a different experiment, too little memory, or a file
    system that does not respond.
    """
    try:
        return read(), ""
    except UserError:
        raise
    except Exception as error:  # readers of damaged files may raise anything
        if cluster.is_lost(error):
            raise
        if problem := _not_damage(error):
            raise UserError(f"checkpoint {folder} {problem}") from None
        return None, reason(error)


def verified(folder: Path, name: str, restore: Callable[[Any], Any]) -> dict:
    """Restore the item `name` of a checkpoint and compare its checksum with the saved one.

    `restore` gets the item's folder. It must use an Orbax handler directly: handlers do not wait for other processes, so a process
    that fails can report it. Raises in every process: ValueError if the item is damaged, UserError if a process cannot read it.
    """
    found, wanted, problem, damage = {}, None, "", ""
    try:
        wanted = read_meta(folder)[name]
        found = restore(folder.absolute() / name)
    except UserError as error:
        problem = str(error)
    except Exception as error:  # readers of damaged files may raise anything
        problem, damage = _not_damage(error), reason(error)
        problem = problem and f"checkpoint {folder} {problem}"
    problems, damages, sums = zip(*cluster.gather([problem, damage, wanted]), strict=True)
    if problem := next(filter(None, problems), ""):
        raise UserError(problem)
    if damage := next(filter(None, damages), ""):
        raise ValueError(damage)
    if len(set(sums)) > 1:
        raise UserError(f"cluster: processes read different checkpoints in {folder}; {cluster.ONE_FOLDER}")
    if int(checksum(found)) != wanted:
        raise ValueError(f"the checksum of {name} does not match")
    return found


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the `meta` item of a checkpoint. Raises ValueError or OSError if it is damaged, and UserError for a newer format."""
    text = (folder / "meta" / "metadata").read_text("utf-8", "replace")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        meta = None
    match meta:
        case {"format": int(version)} if version > FORMAT:
            raise UserError(f"checkpoint {folder} has format {version}, from a newer version; this version reads {FORMAT}")
        case {"format": int(), "model": int(), "optimizer": int()}:
            return meta
    raise ValueError("its metadata has no checksums")


def _not_damage(error: BaseException) -> str:
    """Return why an intact checkpoint could not be read, or "" if the error means damage."""
    error, why = _root(error), reason(error)
    if why in UNREADABLE:
        return f"cannot be read ({why}), but may be intact; try again, or move it away to use the one before it"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"does not fit into memory ({why})"
    if "tree structures do not match" in str(error):
        return "was written by another experiment, or by other versions of the libraries; see environment.json"
    return ""


def _root(error: BaseException) -> BaseException:
    """Return the first cause. Orbax wraps it in an error that names the array."""
    return _root(error.__cause__) if error.__cause__ else error


def reason(error: BaseException) -> str:
    """Return the reason of a library's error in a few words, from the operating system if there is one."""
    error = _root(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". See full TensorStore")[0]
    system, array = re.search(r"([^:\]]+) \[os_error_code", text), re.match(r"([A-Z_]+): Error", text)
    if system:
        return system[1].strip()
    return f"{array[1].replace('_', ' ').lower()} while reading its arrays" if array else text[:200]


def _silence_threads() -> None:
    """Suppress the tracebacks that the threads of Orbax and TensorStore print when a read or write fails.

    The raised error reports the failure once.
    """
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        """Ignore pending reads of other arrays, which fail when their event loop closes."""
        if not isinstance(unraisable.object, CoroutineType) and "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook


def open_manager(directory: Path, **options: Any) -> Any:
    """Return Orbax's CheckpointManager for a folder. Raises UserError if the Orbax metadata of a checkpoint is damaged."""
    import orbax.checkpoint as ocp

    _silence_threads()
    try:
        return ocp.CheckpointManager(directory.absolute(), options=ocp.CheckpointManagerOptions(**options))
    except (ValueError, TypeError):
        for step in ocp.path.step.standard_name_format().find_all(directory.absolute()):
            try:
                _ = step.commit_timestamp_nsecs
            except (ValueError, TypeError):
                folder = directory / str(step.step)
                raise UserError(
                    f"checkpoint {folder} is damaged (its _CHECKPOINT_METADATA); move it away to use the others"
                ) from None
        raise


def in_parts(mesh: jax.sharding.Mesh, like: Mapping[str, jax.Array] = MappingProxyType({})) -> Callable[[Any], Any]:
    """Return a function that restores an item of any structure, sharded over a mesh.

    An array with the name and the shape of one in `like` gets its sharding.
    """
    import orbax.checkpoint as ocp

    def placement(name: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        return like[name].sharding if name in like and like[name].shape == shape else sharding.parts(mesh, shape)

    def restore(item: Any) -> Any:
        handler = ocp.PyTreeCheckpointHandler()
        shapes: Any = dict(handler.metadata(item).tree)
        wanted = [ocp.ArrayRestoreArgs(sharding=placement(name, leaf.shape)) for name, leaf in by_name(shapes).items()]
        restore_args = jax.tree.unflatten(jax.tree.structure(shapes), wanted)
        return handler.restore(item, args=ocp.args.PyTreeRestore(restore_args=restore_args))

    return restore
