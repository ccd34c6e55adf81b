"""Whether what is read of a checkpoint is what was saved: checksums, and what tells damage from what is not to blame."""

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

FORMAT = 1  # of a checkpoint: raised when an older version could not read it
# What an operating system says of files that are not to blame.
NOT_ANSWERING = "EACCES EPERM EIO ESTALE ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENOTCONN ECONNRESET EREMOTEIO EMFILE ENFILE ENOMEM"
UNREADABLE = {os.strerror(getattr(errno, name)) for name in NOT_ANSWERING.split() if hasattr(errno, name)}


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """uint32: every 32-bit word times an odd number that grows with its place in the array, summed modulo 2^32. Places are
    counted where the words are, so no device gets more of an array than it holds."""

    def of(leaf: jax.Array) -> jax.Array:
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        bits = (leaf if leaf.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(leaf, unsigned)).astype(jnp.uint32)
        place = jnp.uint32(0)
        for dimension, size in enumerate(bits.shape):  # in row-major order
            place = place * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dimension)
        return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)

    # In the order of their names, which is the same for a named tuple and for the dict that it is read as.
    leaves = sorted(by_name(tree).items(), key=lambda item: item[0].split("/"))
    words = jnp.stack([of(leaf) for _, leaf in leaves])
    return jnp.sum(words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)


def attempt(folder: Path, read: Callable[[], Any]) -> tuple[Any, str]:
    """What `read` makes of a checkpoint, and why it is damaged, if it is. Raises UserError for what says nothing of its health: a
    newer version, another experiment's, too little memory, a file system that does not answer."""
    try:
        return read(), ""
    except UserError:
        raise
    except Exception as error:  # whatever a reader of damaged files may raise
        if cluster.is_lost(error):
            raise
        if excuse := _excuse(error):
            raise UserError(f"checkpoint {folder} {excuse}") from None
        return None, reason(error)


def verified(folder: Path, name: str, restore: Callable[[Any], Any]) -> dict:
    """What `restore` makes of an item's folder, by a handler of Orbax itself: it waits for no other process, so that one that
    fails can say so. Raises in every process ValueError if it is not what was saved, and UserError if one of them cannot tell."""
    found, wanted, refusal, damage = {}, None, "", ""
    try:
        wanted = read_meta(folder)[name]
        found = restore(folder.absolute() / name)
    except UserError as error:
        refusal = str(error)
    except Exception as error:  # whatever a reader of damaged files may raise
        excuse, damage = _excuse(error), reason(error)
        refusal = excuse and f"checkpoint {folder} {excuse}"
    refusals, damages, sums = zip(*cluster.gathered([refusal, damage, wanted]), strict=True)
    if refusal := next(filter(None, refusals), ""):
        raise UserError(refusal)
    if damage := next(filter(None, damages), ""):
        raise ValueError(damage)
    if len(set(sums)) > 1:
        raise UserError(f"cluster: processes read different checkpoints in {folder}; {cluster.ONE_FOLDER}")
    if int(checksum(found)) != wanted:
        raise ValueError(f"the checksum of {name} does not match")
    return found


def read_meta(folder: Path) -> dict[str, Any]:
    """What is said of a checkpoint within it. Raises ValueError or OSError if it is damaged."""
    text = (folder / "meta" / "metadata").read_text("utf-8", "replace")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        meta = None
    match meta:
        case {"format": int(version)} if version > FORMAT:
            raise UserError(f"checkpoint {folder} is of format {version}, made by a newer version; this one reads {FORMAT}")
        case {"format": int(), "model": int(), "optimizer": int()}:
            return meta
    raise ValueError("its meta does not hold the sums of what was saved")


def _excuse(error: BaseException) -> str:
    """Why a checkpoint could not be read though it may be whole; empty where it is damaged."""
    error, why = _root(error), reason(error)
    if why in UNREADABLE:
        return f"cannot be read ({why}), and may be whole: try again, or move it away to use the one before it"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"does not fit into memory ({why})"
    if "tree structures do not match" in str(error):
        return "is of another experiment, or of other versions; environment.json says which wrote it"
    return ""


def _root(error: BaseException) -> BaseException:
    """What began it: Orbax says first in which array."""
    return _root(error.__cause__) if error.__cause__ else error


def reason(error: BaseException) -> str:
    """What an error of a library says, in a few words: the reason of the operating system, if there is one."""
    error = _root(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". See full TensorStore")[0]
    of_system, of_array = re.search(r"([^:\]]+) \[os_error_code", text), re.match(r"([A-Z_]+): Error", text)
    if of_system:
        return of_system[1].strip()
    return f"{of_array[1].replace('_', ' ').lower()} in reading its arrays" if of_array else text[:200]


def _say_once() -> None:
    """When a read or write fails, Orbax and TensorStore tell of it from each of their threads, with tracebacks, and raise an
    error that says it once. Only the error is let through."""
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        """Not of the reads of other arrays, which end with the event loop that they belong to."""
        if not isinstance(unraisable.object, CoroutineType) and "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook


def opened(directory: Path, **options: Any) -> Any:
    """Orbax' manager of the checkpoints in a folder. Raises UserError where it cannot read its own note on one of them."""
    import orbax.checkpoint as ocp

    _say_once()
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
    """Restores an item whatever it holds, in parts on the devices of a mesh, or as the array `like` one of it is laid out."""
    import orbax.checkpoint as ocp

    def laid(name: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        return like[name].sharding if name in like and like[name].shape == shape else sharding.parts(mesh, shape)

    def restore(item: Any) -> Any:
        handler = ocp.PyTreeCheckpointHandler()
        shapes: Any = dict(handler.metadata(item).tree)
        wanted = [ocp.ArrayRestoreArgs(sharding=laid(name, leaf.shape)) for name, leaf in by_name(shapes).items()]
        restore_args = jax.tree.unflatten(jax.tree.structure(shapes), wanted)
        return handler.restore(item, args=ocp.args.PyTreeRestore(restore_args=restore_args))

    return restore
