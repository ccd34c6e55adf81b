"""Orbax checkpoints: asynchronous, atomic, and verified when read.

A checkpoint has the items `model` (the parameters and the model state that are evaluated), `optimizer` (the rest of the state) and `meta` (checksums of
the first two, fingerprints of the data, the format version, and the mesh it was written on). The position in the data is the
step. The folder of a step appears when the checkpoint is complete. Checksums detect bits that changed on disk; they are sums of
integers, so they do not depend on the sharding.
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
from train.runs.integrity import FORMAT, attempt, checksum, in_parts, open_manager, read_meta, reason, verified
from train.runs.rundir import read_json, write_atomically
from train.step import GuardState, Program, State


def _items(state: State) -> dict[str, dict]:
    """Split the state into the items `model` and `optimizer`."""
    rest = {"step": state.step, "seed": state.seed, "guard": vars(state.guard), "opt_state": state.opt_state}
    if state.average:
        rest["trained"] = {"params": state.params, "model_state": state.model_state}
    params, model_state = state.evaluated
    return {"model": {"params": params, "model_state": model_state}, "optimizer": rest}


@dataclass(frozen=True)
class NewestAndBest:
    """Orbax preservation policy: keep the newest `keep` checkpoints and the step of `best`."""

    keep: int
    best: Callable[[], dict[str, Any]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = sorted(steps)[-self.keep :]
        return [step in newest or step == self.best().get("step") for step in steps]


class Checkpoints:
    """The checkpoints of a run directory. Use as a context manager; the exit waits for pending writes."""

    def __init__(self, run_dir: Path, say: Callable[[str], None], best: Best | None = None, keep: int = 1):
        """Open the checkpoints for reading, or for writing if `best`, the metric that chooses the best checkpoint, is given.

        A writer keeps the newest `keep` checkpoints and the best. A reader changes nothing, since the run may be in progress.
        """
        self.directory, self.say, self.choice, self.read_only = run_dir / "checkpoints", say, best, best is None
        read_only = self.read_only
        self.best_file, self.has_failed = run_dir / "best.json", False
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"{self.directory} is not a folder; remove it")
        if not read_only:
            cluster.on_first(self._check_best)
        policy = None if read_only else NewestAndBest(keep, self.best)
        self.manager = open_manager(
            self.directory,
            preservation_policy=policy,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            single_host_load_and_broadcast=cluster.is_joined(),
        )
        # The loop checks for preemption at every step. If Orbax also did so for an older step, processes could agree on a step that
        # some have passed.
        self.manager.reached_preemption = lambda step: False

    def _check_best(self) -> None:
        """Report a change of the metric. Raises UserError before training if best.json is damaged."""
        before = self._read_best().get("metric")
        if before is not None and before != str(self.choice):
            self.say(f"{self.best_file}: the best checkpoint was chosen by {before}; from now on by {self.choice}")

    def best(self) -> dict[str, Any]:
        """Return `step`, `metric` and `value` of the best checkpoint; empty if none was evaluated."""
        best = self._read_best()
        return best if best.get("step") in self.manager.all_steps() else {}  # a killed run may have lost it

    def _read_best(self) -> dict[str, Any]:
        """Read best.json. Raises UserError if it is damaged."""
        if not self.best_file.exists():
            return {}
        match best := read_json(self.best_file):
            case {"step": int(), "metric": str(), "value": int() | float()}:
                return best
        raise UserError(f"{self.best_file} is damaged; restore it, or remove it to choose the best checkpoint again")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        if cluster.is_joined() and (self.has_failed or kind not in (None, UserError)):
            return  # pending writes need processes that may be gone; writes are atomic
        try:
            self.wait()
        except UserError:
            if kind is None:
                raise
        finally:
            with contextlib.suppress(Exception):  # already reported
                self.manager.close()

    def save(self, state: State, data: Mapping[str, str], mesh: str, metrics: Mapping[str, float]) -> None:
        """Start to write the state. `metrics`, by `SPLIT/NAME`, decide whether this step is the best."""
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
            cluster.on_first(lambda: self._note_best(step, choice, metrics[choice.metric]))
        self._guarded(lambda: self.manager.save(step, args=args))

    def _note_best(self, step: int, choice: Best, value: float) -> None:
        best = self.best()
        if choice.improves(value, best["value"] if best.get("metric") == str(choice) else None):
            write_atomically(self.best_file, json.dumps({"step": step, "metric": str(choice), "value": value}) + "\n")

    def wait(self) -> None:
        """Wait until everything is on disk. Raises UserError if a write failed."""
        self._guarded(lambda: (self.manager.wait_until_finished(), self.manager.check_for_errors()))

    def _guarded(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except (OSError, ValueError, RuntimeError) as error:
            self.has_failed = True
            if cluster.is_lost(error):
                raise
            saved = [int(folder.name) for folder in self.directory.glob("*") if folder.name.isdigit()]
            earlier = f"the checkpoint of step {max(saved)} is intact" if saved else "there is no earlier checkpoint"
            raise UserError(f"{self.directory}: a checkpoint could not be written ({reason(error)}); {earlier}") from None

    def restore(self, program: Program) -> State | None:
        """Return the newest intact checkpoint, sharded for the program's mesh, or None if there is no checkpoint.

        Damaged checkpoints are reported and skipped. Raises UserError if all are damaged.
        """
        return self._newest(lambda step: self.read(step, program))

    def restore_model(self, program: Program, step: int | None = None, best: bool = False) -> tuple[Any, Any]:
        """Return (params, model state) of `step`, of the best checkpoint, or of the newest.

        Raises UserError if that checkpoint does not exist or is damaged.
        """

        def read(step: int) -> tuple[Any, Any]:
            model = self._item(step, "model", program)
            return model["params"], model["model_state"]

        steps = self.steps()
        if not steps:
            raise UserError(f"{self.directory}: no checkpoint; none was saved, or they were removed")
        if best:
            step = cluster.gather(self.best().get("step"))[0]  # the first process decides
            if step is None:
                raise UserError(f"{self.directory}: no best checkpoint, since none was evaluated")
        if step is None:
            return self._newest(read)
        if step not in steps:
            raise UserError(f"{self.directory}: no checkpoint of step {step}; available: {', '.join(map(str, steps))}")
        found, damage = attempt(self.directory / str(step), lambda: read(step))
        if damage:
            raise UserError(f"checkpoint {self.directory / str(step)} is damaged ({damage})")
        return found

    def _newest(self, read: Callable[[int], Any]) -> Any:
        """Return the result of `read` for the newest readable checkpoint, or None if there is no checkpoint.

        Damaged checkpoints are moved to damaged/, but only if an intact one was found.
        """
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
                cluster.on_first(lambda: [self._put_aside(step) for step in damaged])
                self.manager.reload()
            return found
        if damaged:
            raise UserError(f"{self.directory}: all checkpoints are damaged; restore one, or choose another --run.dir")
        return None

    def _put_aside(self, step: int) -> None:
        aside = self.directory.parent / "damaged" / str(step)
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.move(self.directory / str(step), aside)

    def steps(self) -> list[int]:
        """Return the saved steps in ascending order, damaged ones included, as the first process sees them."""
        return cluster.gather(sorted(int(step) for step in self.manager.all_steps()))[0]

    def damage(self, step: int, mesh: jax.sharding.Mesh) -> str:
        """Return the damage of a checkpoint, or another reason that it cannot be read; "" if it is intact. Reads it onto `mesh`."""
        folder = self.directory / str(step)
        try:
            for item in ("model", "optimizer"):
                if damage := attempt(folder, lambda item=item: verified(folder, item, in_parts(mesh)))[1]:
                    return f"damaged: {damage}"
        except UserError as error:
            return str(error)
        return ""

    def mesh(self, step: int) -> str | None:
        """Return the mesh that a checkpoint was written on, or None if unknown."""
        try:
            return str(read_meta(self.directory / str(step)).get("mesh", "")) or None
        except (OSError, ValueError, UserError):
            return None

    def read(self, step: int, program: Program) -> State:
        """Read and verify a checkpoint. Raises ValueError if it is damaged, and UserError if its format is newer."""
        model, rest = self._item(step, "model", program), self._item(step, "optimizer", program)
        trained = rest.get("trained", model)
        return State(
            step=rest["step"], params=trained["params"], opt_state=rest["opt_state"], model_state=trained["model_state"],
            seed=rest["seed"], guard=GuardState(**rest["guard"]),
            average=(model["params"], model["model_state"]) if "trained" in rest else None,
        )  # fmt: skip

    def _item(self, step: int, name: str, program: Program) -> dict:
        """Read and verify an item, with the shardings of the program."""
        import orbax.checkpoint as ocp

        placed = jax.tree.map(
            lambda s, to: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=to), program.shapes, program.shardings
        )
        args = ocp.args.StandardRestore(_items(placed)[name])
        folder = self.directory / str(step)
        return verified(folder, name, lambda item: ocp.StandardCheckpointHandler().restore(item, args=args))
