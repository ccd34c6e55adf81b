"""From an experiment to a trained run: assemble, initialise, step, log, evaluate, save."""

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.dataset import Dataset
from data.loader import evaluation_batches, training_batches
from train import flops, machine, rundir, sharding
from train.checkpoint import Checkpoints, initialise_from
from train.errors import UserError
from train.experiment import Experiment, resolve
from train.objectives import Sums, means
from train.optim import names
from train.progress import Progress
from train.step import Program, State, build


@dataclass(frozen=True)
class Assembled:
    """A resolved experiment with its data and its program: all that can be had before anything is trained or written."""

    experiment: Experiment
    dataset: Dataset
    program: Program
    spec: dict[str, jax.ShapeDtypeStruct]

    @property
    def path(self) -> Path:
        return Path(self.experiment.run.dir)


def assemble(experiment: Experiment) -> Assembled:
    """Raises UserError or DataError for whatever does not fit together."""
    mesh = experiment.mesh.build()
    sharding.check_batch(mesh, experiment.data.batch_size, experiment.run.accumulation)
    own = Path(experiment.run.dir) / "tokenizer.json"
    theirs = rundir.find(experiment.init_from) / "tokenizer.json" if experiment.init_from and not own.exists() else own
    dataset = experiment.data.build(str(theirs) if theirs.exists() else None)
    if theirs.exists() and dataset.files.get("tokenizer.json", theirs.read_text("utf-8")) != theirs.read_text("utf-8"):
        raise UserError(
            f"data.tokenizer {experiment.data.tokenizer} is not the tokenizer of {theirs.parent}, whose embeddings are used"
        )
    experiment = resolve(experiment, dict(dataset.facts))
    spec = {name: jax.ShapeDtypeStruct(s.shape, s.dtype) for name, s in experiment.data.spec().items()}
    return Assembled(experiment, dataset, build(experiment, spec, mesh), spec)


def train(experiment: Experiment, trusted: tuple[str, ...] = ()) -> dict[str, Any]:
    """Trains to the last step, from the run's own last checkpoint if it has one, and returns its metrics on each held-out split.

    Raises UserError for what a user can mend, and Interrupted after a signal, with the state saved.
    """
    run = assemble(experiment)
    experiment, path = run.experiment, run.path
    continued = rundir.is_continued(experiment, trusted)
    progress = Progress(path.name, experiment.run.steps)
    try:
        fresh = None if continued else initial(run, progress.say)  # which may refuse, and then nothing was written
        rundir.claim(experiment)
        fingerprint_kept(path, run.dataset.fingerprint)
        for name, text in run.dataset.files.items():
            rundir.write_atomically(path / name, text)
        for note in run.dataset.notes:
            progress.say(f"{path.name}: {note}")
        batches = training_batches(run.dataset.splits["train"], experiment.data.batch_size, experiment.run.seed)
        with Checkpoints(path, experiment.run.keep, progress.say) as checkpoints, interruptions() as interrupted:
            state = checkpoints.restore(run.program, batches) if continued else None
            if state is None:
                state = fresh or initial(run, progress.say)
            return _steps(run, state, batches, checkpoints, progress, interrupted)
    finally:
        progress.close()


def initial(run: Assembled, say: Callable[[str], None]) -> State:
    state = run.program.init()
    if run.experiment.init_from:
        state, report = initialise_from(state, run.program, rundir.find(run.experiment.init_from))
        counts = ", ".join(f"{len(found)} {what}{_some(found) if what != 'taken' else ''}" for what, found in report.items())
        say(f"{run.path.name}: parameters of {run.experiment.init_from}: {counts}")
    return state


def _some(found: list[str]) -> str:
    return f" ({', '.join(found[:4])}{', …' if found[4:] else ''})" if found else ""


def _steps(
    run: Assembled, state: State, batches: Any, checkpoints: Checkpoints, progress: Progress, interrupted: dict
) -> dict[str, Any]:
    settings, program = run.experiment.run, run.program
    start, steps = int(state.step), settings.steps
    progress.begin(start)
    log = rundir.MetricsLog(run.path, start)
    meter = Meter(run)
    if start:
        progress.say(f"{run.path.name}: continues at step {start} of {steps}")
    pending, due, found = [], None, None

    def flush() -> None:
        nonlocal due
        if due is not None:
            step, metrics = due
            due = None
            values = meter.read(step, jax.device_get(metrics))
            check_guard(run, values.pop("guard"))
            log.write(step, values)
            progress.update(step, values)

    def evaluated(step: int, split: str) -> dict[str, Any]:
        found = evaluate(run, state.params, state.model_state, split)
        log.write(step, {f"{split}/{name}": value for name, value in found.items() if isinstance(value, float)})
        meter.pause()
        return found

    try:
        meter.start()
        for step in range(start + 1, steps + 1):
            batch = next(batches)
            meter.count(batch)
            state, metrics = program.step(state, jax.device_put(batch, program.batch_sharding))
            if step == start + 1:  # which compiled, and says nothing of speed
                jax.block_until_ready(metrics)
                meter.start()
                progress.begin(step)
            flush()  # of the step before, while this one runs
            pending.append(metrics)
            last, stop = step == steps, interrupted["by"] is not None
            evaluates = last or bool(settings.evaluate_every and step % settings.evaluate_every == 0)
            saves = last or stop or step % settings.checkpoint_every == 0
            if evaluates or saves or step % settings.log_every == 0:
                due, pending = (step, pending), []
            if evaluates or saves:  # not before it is known that the step was good
                flush()
            found = evaluated(step, run.dataset.held_out) if evaluates else None
            if saves:
                checkpoints.save(state, batches, found)
                meter.pause()
            if stop and not last:
                checkpoints.wait()
                raise Interrupted(
                    interrupted["by"], f"{run.path.name}: stopped and saved at step {step} of {steps}; the same command continues"
                )
        checkpoints.wait()
        file = run.path / "result.json"
        if start == steps and file.exists():
            return json.loads(file.read_text("utf-8"))
        known = {} if found is None else {run.dataset.held_out: found}
        result = {split: known.get(split) or evaluated(steps, split) for split in run.dataset.splits if split != "train"}
        rundir.write_atomically(file, json.dumps(result, indent=2) + "\n")
        return result
    finally:
        log.close()


def check_guard(run: Assembled, guard: Any) -> None:
    """Raises UserError where the guard's policy says so."""
    policy, skipped, bad_step = run.experiment.run.guard, int(guard.skipped), int(guard.bad_step)
    if bad_step < 0 or (policy.policy == "skip" and skipped <= policy.limit):
        return
    leaf = int(guard.bad_leaf)
    what = "the loss or the gradient norm is not finite, or spiked"
    if leaf >= 0:
        what = f"the gradient of {names(run.program.shapes.params)[leaf]} is not finite"
    count = ""
    if policy.policy == "skip":
        count = f"{skipped} updates were skipped, more than run.guard.limit {policy.limit}; the last at "
    raise UserError(f"{run.path.name}: {count}step {bad_step + 1}: {what}; lower --optimizer.learning-rate, or look at the batch")


def evaluate(run: Assembled, params: Any, model_state: Any, split: str) -> dict[str, Any]:
    """The objective's metrics over a whole split."""
    total: Sums | None = None
    for batch in evaluation_batches(run.dataset.splits[split], run.experiment.data.batch_size):
        sums = run.program.evaluate(params, model_state, jax.device_put(batch, run.program.batch_sharding))
        total = sums if total is None else jax.tree.map(lambda a, b: a + b, total, sums)
    assert total is not None, f"the split {split} is empty"
    return run.experiment.objective.summarize(jax.device_get(total))


class Interrupted(Exception):
    """A signal ended the run; it is saved. `signal` is its number."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number


@contextmanager
def interruptions() -> Iterator[dict]:
    """While active, the first SIGTERM or Ctrl-C only notes itself under `by`; the second acts at once."""
    noted: dict[str, int | None] = {"by": None}
    before = {}

    def note(number, _frame):
        noted["by"] = number
        signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Meter:
    """Turns the metrics of the steps since the last reading into figures, with speed: of training alone, not of evaluations."""

    def __init__(self, run: Assembled):
        self.run = run
        shapes = run.program.shapes
        self.flops = flops.training(
            run.experiment.objective, run.experiment.model.build(), shapes.params, shapes.model_state, run.spec
        )
        self.rate = machine.matrix_rate(run.experiment.run.precision) * run.program.mesh.devices.size

    def start(self) -> None:
        self.steps, self.units, self.began = 0, 0, time.perf_counter()

    pause = start

    def count(self, batch: dict[str, np.ndarray]) -> None:
        self.steps += 1
        self.unit, units = size(batch)
        self.units += units

    def read(self, step: int, metrics: list[dict]) -> dict[str, Any]:
        sums = jax.tree.map(lambda *xs: sum(xs), *(m["sums"] for m in metrics))
        # One step more has been dispatched than is read, and its batch counted: the figures of speed lag by that.
        seconds = time.perf_counter() - self.began
        values = {f"train/{name}": value for name, value in means(sums).items()}
        values["train/learning_rate"] = float(self.run.program.schedule(step - 1))
        values["train/skipped"] = int(metrics[-1]["guard"].skipped)
        values[f"train/{self.unit}_per_second"] = self.units / seconds
        values["train/step_seconds"] = seconds / max(self.steps, 1)
        values["train/tflops_per_second"] = self.flops * self.steps / seconds / 1e12
        values["train/share_of_matrix_rate"] = self.flops * self.steps / seconds / self.rate
        values["train/peak_memory_gib"], _ = machine.peak_memory()
        self.start()
        return {**values, "guard": metrics[-1]["guard"]}


def size(batch: dict[str, np.ndarray]) -> tuple[str, int]:
    """What a batch is counted in, and how many: tokens that are not padding, or examples."""
    if "tokens" in batch:
        return "tokens", int(batch["mask"].sum()) if "mask" in batch else batch["tokens"].size
    return "examples", len(batch["valid"])


def fingerprint_kept(path: Path, fingerprint: str) -> None:
    """Writes environment.json. Raises UserError if the run was started on other data."""
    file = path / "environment.json"
    if file.exists():
        before = json.loads(file.read_text("utf-8"))["data_fingerprint"]
        if before != fingerprint:
            raise UserError(f"{path}: the data changed since the run was started (fingerprint {before}, now {fingerprint})")
    rundir.write_atomically(file, json.dumps(rundir.environment(fingerprint), indent=2) + "\n")


def with_run(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with fields of its `run` changed."""
    return dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, **changes))
