"""Checkpoints by Orbax: asynchronous, atomic, the data position included, and never trusted blindly.

A checkpoint has the items `model` (parameters and model state), `optimizer` (the rest of the state) and `meta` (checksums of
the first two, fingerprints of the data, the format, and the mesh it was written on). The position in
the data is the step itself. It appears under its step when it is whole. Bits that changed on disk are found by the checksums,
which are sums of integers: the same for any layout over devices.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from train import cluster
from train.errors import UserError
from train.runs.best import Best
from train.runs.integrity import FORMAT, attempt, checksum, in_parts, opened, read_meta, reason, verified
from train.runs.rundir import read_json, write_atomically
from train.step import GuardState, Program, State


def _items(state: State) -> dict[str, dict]:
    """The state as the two items that hold it."""
    rest = {"step": state.step, "seed": state.seed, "guard": vars(state.guard), "opt_state": state.opt_state}
    return {"model": {"params": state.params, "model_state": state.model_state}, "optimizer": rest}


@dataclass(frozen=True)
class NewestAndBest:
    """Orbax' protocol of what is kept: the newest `keep`, and the step that `best` tells."""

    keep: int
    best: Callable[[], dict[str, Any]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = sorted(steps)[-self.keep :]
        return [step in newest or step == self.best().get("step") for step in steps]


class Checkpoints:
    """The checkpoints of a run directory. Use as a context manager: leaving it waits for what is being written."""

    def __init__(self, run_dir: Path, keep: int, say: Callable[[str], None], best: Best | None = None):
        """Open the checkpoints to write, with the metric that chooses the best, or without it to read only.

        A reader changes nothing, since the run may be writing at the same time.
        """
        self.directory, self.say, self.choice, self.read_only = run_dir / "checkpoints", say, best, best is None
        read_only = self.read_only
        self.best_file, self.has_failed = run_dir / "best.json", False
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"{self.directory} is no folder; remove it, and checkpoints can be written there")
        if not read_only:
            cluster.by_first(self._read_best)  # before anything is learned that could then not be saved
        policy = None if read_only else NewestAndBest(keep, self.best)
        self.manager = opened(
            self.directory,
            preservation_policy=policy,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            single_host_load_and_broadcast=cluster.is_joined(),
        )
        # The loop asks for preemption, at every step. Asked about an older one as well, by a thread that has just written it, the
        # runtime may agree on a step that others have passed.
        self.manager.reached_preemption = lambda step: False

    def best(self) -> dict[str, Any]:
        """`step`, `metric` and `value` of the best checkpoint; empty if none was evaluated."""
        best = self._read_best()
        return best if best.get("step") in self.manager.all_steps() else {}  # a run that was killed may have lost it

    def _read_best(self) -> dict[str, Any]:
        """Raises UserError if the file is damaged."""
        if not self.best_file.exists():
            return {}
        match best := read_json(self.best_file):
            case {"step": int(), "metric": str(), "value": int() | float()}:
                return best
        raise UserError(f"{self.best_file} is damaged: restore it, or remove it to forget which checkpoint was the best")

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

    def save(self, state: State, data: Mapping[str, str], mesh: str, metrics: Mapping[str, float]) -> None:
        """Start to write the state. `metrics` has those of this step by `SPLIT/NAME`, and decides whether it is the best."""
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
        if (choice := self.choice) and choice.metric in metrics:
            cluster.by_first(lambda: self._note_best(step, choice, metrics[choice.metric]))
        self._guarded(lambda: self.manager.save(step, args=args))

    def _note_best(self, step: int, choice: Best, value: float) -> None:
        best = self.best()
        if choice.improves(value, best["value"] if best.get("metric") == str(choice) else None):
            write_atomically(self.best_file, json.dumps({"step": step, "metric": str(choice), "value": value}) + "\n")

    def wait(self) -> None:
        """Until everything is on disk. Raises UserError if it could not be written."""
        self._guarded(lambda: (self.manager.wait_until_finished(), self.manager.check_for_errors()))

    def _guarded(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except (OSError, ValueError, RuntimeError) as error:
            self.has_failed = True
            if cluster.is_lost(error):
                raise
            there = [int(folder.name) for folder in self.directory.glob("*") if folder.name.isdigit()]
            kept = f"the checkpoint of step {max(there)} is whole" if there else "there is none before it"
            raise UserError(f"{self.directory}: a checkpoint could not be written ({reason(error)}); {kept}") from None

    def restore(self, program: Program) -> State | None:
        """The newest whole checkpoint, laid out for the program's mesh; None without any.

        A damaged one is named, and the one before it used. Raises UserError if all are damaged.
        """
        return self._newest(lambda step: self.read(step, program))

    def restore_model(self, program: Program, step: int | None = None, best: bool = False) -> tuple[Any, Any]:
        """Return (params, model state) of one step, of the best checkpoint, or of the newest. Raises UserError if it is not there."""

        def read(step: int) -> tuple[Any, Any]:
            model = self._item(step, "model", program)
            return model["params"], model["model_state"]

        steps = self.steps()
        if not steps:
            raise UserError(f"{self.directory}: no checkpoint; none was saved yet, or they were removed")
        if best:
            step = cluster.gathered(self.best().get("step"))[0]  # as the first process sees it
            if step is None:
                raise UserError(f"{self.directory}: no checkpoint was evaluated, so none is known to be the best")
        if step is None:
            return self._newest(read)
        if step not in steps:
            raise UserError(f"{self.directory}: no checkpoint of step {step}; there are: {', '.join(map(str, steps))}")
        found, damage = attempt(self.directory / str(step), lambda: read(step))
        if damage:
            raise UserError(f"checkpoint {self.directory / str(step)} is damaged ({damage})")
        return found

    def _newest(self, read: Callable[[int], Any]) -> Any:
        """What `read` makes of the newest checkpoint that it can read. Damaged ones are put aside, but only once there is another
        to go on from."""
        damaged = []
        steps = self.steps()
        for step in reversed(steps):
            found, damage = attempt(self.directory / str(step), lambda step=step: read(step))
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
                if damage := attempt(folder, lambda item=item: verified(folder, item, in_parts(mesh)))[1]:
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
        return verified(folder, name, lambda item: ocp.StandardCheckpointHandler().restore(item, args=args))
