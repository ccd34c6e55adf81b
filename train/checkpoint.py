"""Checkpoints by Orbax: asynchronous, atomic, the data position included, and never trusted blindly.

A checkpoint has the items `model` (parameters and model state), `optimizer` (the rest of the state) and `meta` (checksums of
the first two, fingerprints of the data, its tokenizer among them, the format, and the mesh it was written on). The position in
the data is the step itself. It appears under its step when it is whole. Bits that changed on disk are found by the checksums,
which are sums of integers: the same for any layout over devices.
"""

import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import CoroutineType, MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from fmodels.transformer import stack_layers, unstack_layers
from train import cluster, sharding
from train.errors import UserError
from train.rundir import read_json, write_atomically
from train.sharding import by_name
from train.step import GuardState, Program, State

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


def _items(state: State) -> dict[str, dict]:
    """The state as the two items that hold it."""
    rest = {"step": state.step, "seed": state.seed, "guard": vars(state.guard), "opt_state": state.opt_state}
    return {"model": {"params": state.params, "model_state": state.model_state}, "optimizer": rest}


@dataclass(frozen=True)
class NewestAndBest:
    """Orbax' protocol of what is kept: the newest `keep`, and the step that `best` tells."""

    keep: int
    best: Callable[[], dict[str, float]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = sorted(steps)[-self.keep :]
        return [step in newest or step == self.best().get("step") for step in steps]


class Checkpoints:
    """The checkpoints of a run directory. Use as a context manager: leaving it waits for what is being written."""

    def __init__(self, run_dir: Path, keep: int, say: Callable[[str], None], read_only: bool = False):
        """Who only reads leaves everything as it is: the run may be writing at this moment."""
        self.directory, self.say, self.read_only = run_dir / "checkpoints", say, read_only
        self.best_file, self.has_failed = run_dir / "best.json", False
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"{self.directory} is no folder; remove it, and checkpoints can be written there")
        if not read_only:
            cluster.by_first(self._read_best)  # before anything is learned that could then not be saved
        _say_once()
        policy = None if read_only else NewestAndBest(keep, self.best)
        self.manager = _manager(
            self.directory,
            preservation_policy=policy,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            single_host_load_and_broadcast=cluster.is_joined(),
        )
        # The loop asks for preemption, at every step. Asked about an older one as well, by a thread that has just written it, the
        # runtime may agree on a step that others have passed.
        self.manager.reached_preemption = lambda step: False

    def best(self) -> dict[str, float]:
        """`step` and `loss` of the checkpoint of least validation loss; empty if none was evaluated."""
        best = self._read_best()
        return best if best.get("step") in self.manager.all_steps() else {}  # a run that was killed may have lost it

    def _read_best(self) -> dict[str, float]:
        """Raises UserError if the file does not say what it is to say."""
        if not self.best_file.exists():
            return {}
        match best := read_json(self.best_file):
            case {"step": int(), "loss": int() | float()}:
                return best
        raise UserError(f"{self.best_file} is damaged: restore it, or remove it to forget which was best")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        if cluster.is_joined() and (self.has_failed or kind not in (None, UserError)):
            return  # what is being written needs processes that may be gone; it is whole or not there
        try:
            self.wait()
        except UserError:
            if kind is None:
                raise
        finally:
            with contextlib.suppress(Exception):  # what could not be written was said
                self.manager.close()

    def save(self, state: State, data: Mapping[str, str], mesh: str, metrics: dict[str, float] | None) -> None:
        """Starts to write the state. `metrics` has the validation `loss` at this step, if known: it decides which is best."""
        import orbax.checkpoint as ocp

        step = int(state.step)
        if step in self.manager.all_steps():
            return
        items = _items(state)
        sums = {name: int(checksum(item)) for name, item in items.items()}
        meta = {**sums, "data": dict(data), "format": FORMAT, "mesh": mesh}
        args = ocp.args.Composite(
            **{name: ocp.args.StandardSave(item) for name, item in items.items()},
            meta=ocp.args.JsonSave(meta),
        )
        if metrics:
            cluster.by_first(lambda: self._note_best(step, metrics["loss"]))
        self._guarded(lambda: self.manager.save(step, args=args))

    def _note_best(self, step: int, loss: float) -> None:
        if loss < self.best().get("loss", math.inf):
            write_atomically(self.best_file, json.dumps({"step": step, "loss": loss}) + "\n")

    def wait(self) -> None:
        """Until everything is on disk. Raises UserError if it could not be written."""
        self._guarded(lambda: (self.manager.wait_until_finished(), self.manager.check_for_errors()))

    def _guarded(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except (OSError, ValueError, RuntimeError) as error:
            self.has_failed = True
            if cluster.is_lost(_root(error)):
                raise
            there = [int(folder.name) for folder in self.directory.glob("*") if folder.name.isdigit()]
            kept = f"the checkpoint of step {max(there)} is whole" if there else "there is none before it"
            raise UserError(f"{self.directory}: a checkpoint could not be written ({reason(error)}); {kept}") from None

    def restore(self, program: Program) -> State | None:
        """The newest whole checkpoint, laid out for the program's mesh; None without any.

        A damaged one is named, and the one before it used. Raises UserError if all are damaged.
        """
        return self._newest(lambda step: self.read(step, program))

    def restore_model(self, program: Program, best: bool = False) -> tuple[Any, Any]:
        """(params, model state) of the newest checkpoint, or of the best. Raises UserError if there is none."""

        def read(step: int) -> tuple[Any, Any]:
            model = self._item(step, "model", program)
            return model["params"], model["model_state"]

        if not best:
            found = self._newest(read)
            if found is None:
                raise UserError(f"{self.directory}: there is no checkpoint: none was saved yet, or they are gone")
            return found
        step = cluster.gathered(self.best().get("step"))[0]  # as the first process sees it
        if step is None:
            raise UserError(f"{self.directory}: no checkpoint was evaluated, so none is known to be the best")
        found, damage = _attempt(self.directory / str(step), lambda: read(step))
        if damage:
            raise UserError(f"checkpoint {self.directory / str(step)} is damaged ({damage})")
        return found

    def _newest(self, read: Callable[[int], Any]) -> Any:
        """What `read` makes of the newest checkpoint that it can read. Damaged ones are put aside, but only once there is another
        to go on from."""
        damaged = []
        steps = self.steps()
        for step in reversed(steps):
            found, damage = _attempt(self.directory / str(step), lambda step=step: read(step))
            if damage:
                next_one = "; trying the one before it" if step > steps[0] else ""
                self.say(f"checkpoint {self.directory / str(step)} is damaged ({damage}){next_one}")
                damaged.append(step)
                continue
            if damaged and not self.read_only:
                cluster.by_first(lambda: [self._put_aside(step) for step in damaged])
                self.manager.reload()
            return found
        if damaged:
            raise UserError(f"{self.directory}: no checkpoint is whole; restore one, or choose another --run.dir")
        return None

    def _put_aside(self, step: int) -> None:
        aside = self.directory.parent / "damaged" / str(step)
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.move(self.directory / str(step), aside)

    def steps(self) -> list[int]:
        """Of what was saved, ascending, whole or not, as the first process sees it."""
        return cluster.gathered(sorted(int(step) for step in self.manager.all_steps()))[0]

    def wrong(self, step: int, mesh: jax.sharding.Mesh) -> str:
        """What is wrong with a checkpoint, which is read in parts on whatever `mesh` there is; empty if it is whole."""
        folder = self.directory / str(step)
        try:
            for item in ("model", "optimizer"):
                if damage := _attempt(folder, lambda item=item: _verified(folder, item, _in_parts(mesh)))[1]:
                    return f"damaged: {damage}"
        except UserError as error:
            return str(error)
        return ""

    def mesh(self, step: int) -> str | None:
        """The mesh that a checkpoint was written on; None if it does not say."""
        try:
            return str(read_meta(self.directory / str(step)).get("mesh", "")) or None
        except (OSError, ValueError, UserError):
            return None

    def read(self, step: int, program: Program) -> State:
        """One checkpoint, verified. Raises ValueError where it is damaged, and UserError where it is of a newer version."""
        model, rest = self._item(step, "model", program), self._item(step, "optimizer", program)
        return State(
            step=rest["step"], params=model["params"], opt_state=rest["opt_state"], model_state=model["model_state"],
            seed=rest["seed"], guard=GuardState(**rest["guard"]),
        )  # fmt: skip

    def _item(self, step: int, name: str, program: Program) -> dict:
        """One item, verified, in the layout of the program."""
        import orbax.checkpoint as ocp

        placed = jax.tree.map(
            lambda s, to: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=to), program.shapes, program.shardings
        )
        args = ocp.args.StandardRestore(_items(placed)[name])
        folder = self.directory / str(step)
        return _verified(folder, name, lambda item: ocp.StandardCheckpointHandler().restore(item, args=args))


def _attempt(folder: Path, read: Callable[[], Any]) -> tuple[Any, str]:
    """What `read` makes of a checkpoint, and why it is damaged, if it is. Raises UserError for what says nothing of its health: a
    newer version, another experiment's, too little memory, a file system that does not answer."""
    try:
        return read(), ""
    except UserError:
        raise
    except Exception as error:  # whatever a reader of damaged files may raise
        if cluster.is_lost(_root(error)):
            raise
        if excuse := _excuse(error):
            raise UserError(f"checkpoint {folder} {excuse}") from None
        return None, reason(error)


def _verified(folder: Path, name: str, restore: Callable[[Any], Any]) -> dict:
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


def _manager(directory: Path, **options: Any) -> Any:
    """Orbax' manager of the checkpoints in a folder. Raises UserError where it cannot read its own note on one of them."""
    import orbax.checkpoint as ocp

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


def read_model(run_dir: Path, mesh: jax.sharding.Mesh, like: Mapping[str, jax.Array] = MappingProxyType({})) -> tuple[dict, dict]:
    """(params, model state) of the newest checkpoint of a run, whatever the experiment: laid out as the arrays `like` them, by
    name and shape, and otherwise (where layers are yet to be stacked, too) in parts on the devices of `mesh`.

    Raises UserError if there is none, or it is damaged."""
    _say_once()
    directory = run_dir / "checkpoints"
    with _manager(directory, read_only=True) as manager:
        step = cluster.gathered(manager.latest_step())[0]
        if step is None:
            raise UserError(f"{directory}: there is no checkpoint: none was saved yet, or they are gone")
        model, damage = _attempt(directory / str(step), lambda: _verified(directory / str(step), "model", _in_parts(mesh, like)))
        earlier = len(manager.all_steps()) > 1
    if damage:
        what_to_do = "; move it away to begin from the one before it" if earlier else ""
        raise UserError(f"checkpoint {directory / str(step)} is damaged ({damage}){what_to_do}")
    return model["params"], model["model_state"]


def _in_parts(mesh: jax.sharding.Mesh, like: Mapping[str, jax.Array] = MappingProxyType({})) -> Callable[[Any], Any]:
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


def initialise_from(state: State, program: Program, run_dir: Path) -> tuple[State, dict[str, list[str]]]:
    """The fresh state with the parameters and the model state of another run, as far as names agree, and which were `taken`, are
    `new`, and were `left over`. Raises UserError where a name agrees and its shape does not, or where one of the model is
    missing."""
    like = by_name({"params": state.params, "model_state": state.model_state})
    params, model_state = read_model(run_dir, program.mesh, like)
    given = by_name({**stacked_as(params, state.params), "state": model_state})
    ours = {**state.params, "state": state.model_state}
    wanted = by_name(ours)
    taken = [name for name in wanted if name in given]
    missing = [name for name in wanted if name.startswith(("model/", "state/")) and name not in given]
    if missing:
        raise UserError(
            f"init_from {run_dir}: it has no parameter {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}: "
            "the models differ; its experiment.json says what its model is"
        )

    wrong = [
        f"{name} {list(given[name].shape)} -> {list(wanted[name].shape)}"
        for name in taken
        if given[name].shape != wanted[name].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"init_from {run_dir}: shapes do not fit: {'; '.join(wrong[:3])}{more}")

    placed = by_name({**program.shardings.params, "state": program.shardings.model_state})
    move = jax.jit(lambda arrays: arrays, out_shardings={name: placed[name] for name in taken})
    moved = move({name: given[name] for name in taken})
    found = jax.tree.unflatten(jax.tree.structure(ours), [moved.get(name, leaf) for name, leaf in wanted.items()])
    report = {"taken": taken, "new": sorted(wanted.keys() - given.keys()), "left over": sorted(given.keys() - wanted.keys())}
    return replace(state, model_state=found.pop("state"), params=found), report


def stacked_as(given: Any, wanted: Any) -> Any:
    """`given` with the layers of each stack one by one or as one, as `wanted` has them."""
    if not (isinstance(given, dict) and isinstance(wanted, dict)):
        return given
    if "layers" in wanted and "layer_0" in given:
        given = stack_layers(given)
    elif "layer_0" in wanted and "layers" in given:
        given = unstack_layers(given)
    return {name: stacked_as(part, wanted.get(name)) for name, part in given.items()}


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
