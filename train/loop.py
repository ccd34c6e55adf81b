"""From an experiment to a trained run: assemble, initialise, step, log, evaluate, save."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.dataset import Dataset
from data.loader import Batches, Loader, evaluation_batches
from data.text.tokenizer import TOKENIZER_FILE, Tokenizer
from train import cluster, sharding
from train.bench.meter import Counted, Meter
from train.errors import UserError
from train.experiment import Experiment, fields, resolve
from train.objectives import Sums
from train.plan import layout
from train.report.progress import Progress
from train.runs import rundir
from train.runs.checkpoints import Checkpoints
from train.runs.init_from import initialise_from
from train.sharding import by_name, mesh_text
from train.step import Program, State, build

AGAIN = "the same command continues"


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
    sharding.check_batch(mesh, experiment.mesh.rules, experiment.data.batch_size, experiment.run.accumulation)
    own = Path(experiment.run.dir) / TOKENIZER_FILE
    cluster.revisit(own.parent)
    begun = (own.parent / "experiment.json").exists()
    theirs = rundir.find(experiment.init_from) / TOKENIZER_FILE if experiment.init_from and not begun else own
    data = experiment.data
    if own.exists() and hasattr(data, "tokenizer"):  # the run's own, wherever the one that it was started with may be now
        data = dataclasses.replace(data, tokenizer=None)
    dataset = data.build(str(theirs) if theirs.exists() else None)
    used = dataset.codec.files.get(TOKENIZER_FILE)
    if used and theirs.exists() and Tokenizer(used).hash != Tokenizer.load(str(theirs)).hash:
        raise UserError(
            f"data.tokenizer {experiment.data.tokenizer} is not the tokenizer of {theirs.parent}, whose embeddings are used"
        )
    experiment = resolve(experiment, dict(dataset.facts))
    spec = batch_spec(experiment)
    run = Assembled(experiment, dataset, build(experiment, spec, mesh), spec)
    cluster.check_alike(identity(run))
    return run


def batch_spec(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(s.shape, s.dtype) for name, s in experiment.data.spec().items()}


def train(experiment: Experiment, trusted: tuple[str, ...] = ()) -> dict[str, Any]:
    """Trains to the last step, from the run's own last checkpoint if it has one, and returns its metrics on each held-out split.

    Raises UserError for what a user can mend, and Interrupted after a signal, with the state saved.
    """
    run = assemble(experiment)
    experiment, path = run.experiment, run.path
    progress, lock = Progress(path.name, experiment.run.steps, cluster.is_first()), None
    try:
        before = rundir.begun_as(experiment, trusted)
        continued = before is not None
        if continued:
            accept = getattr(experiment.data, "accept_changed", False)
            rundir.same_data(path, run.dataset.fingerprint, accept, progress.say)
        cluster.check_alike({"the run directory": "begun" if continued else "new"})
        fresh = None if continued else initial(run, progress.say)  # which may refuse, and then nothing was written
        lock = cluster.by_first(lambda: write(run, continued, progress.say))
        cluster.check_shared(path)
        for note in [*run.dataset.notes, *notes(run)]:
            progress.say(f"{path.name}: {note}")
        with Checkpoints(path, experiment.run.keep, progress.say) as checkpoints:
            state = checkpoints.restore(run.program) if continued else None
            if continued:
                often = max(before.run.checkpoint_every, experiment.run.checkpoint_every)
                cluster.by_first(lambda: resume(run, state, often, progress.say))
            if state is None:
                state = fresh or initial(run, progress.say)
            start = int(state.step)  # a step takes a batch, so the step is the position
            with interruptions(start) as interrupted, batches(run, start) as reader:
                return _steps(run, state, reader, checkpoints, progress, interrupted)
    finally:
        progress.close()
        if lock is not None:
            os.close(lock)


def identity(run: Assembled) -> dict[str, str]:
    """All that must be the same in every process of a run, by name."""
    return fields(run.experiment) | {f"data {name}": value for name, value in run.dataset.fingerprint.items()}


def write(run: Assembled, continued: bool, say: Callable[[str], None]) -> int:
    """Makes the run directory, with all that is in it before the first step. The file descriptor returned locks it while open."""
    path = run.path
    lock = rundir.claim(path, say)
    if not continued and (path / "experiment.json").exists():
        os.close(lock)
        raise UserError(f"{path} was begun by another process meanwhile; {AGAIN}")
    if not continued:
        rundir.write_environment(path, run.dataset.fingerprint)
    for name, text in run.dataset.codec.files.items():
        rundir.write_atomically(path / name, text)
    if bad := run.dataset.bad_records:
        rundir.write_atomically(path / "bad_records.jsonl", "".join(f"{line}\n" for line in bad))
        say(f"{path.name}: {len(bad)} bad records were skipped; {path / 'bad_records.jsonl'} says which")
    if run.program.mesh.size > 1:
        table = layout.table(run.program, run.experiment.mesh.rules, run.spec)
        rundir.write_atomically(path / "shardings.txt", f"{table}\n")
    if not continued:
        rundir.write_experiment(run.experiment)  # last: from here on the run is begun
    return lock


def resume(run: Assembled, state: State | None, often: int, say: Callable[[str], None]) -> None:
    """Before a run that was begun, and saved at every so many steps, goes on. Raises UserError if it has lost its checkpoints."""
    if state is None:
        rundir.check_not_lost(run.path, 2 * often)  # the first may be unfinished until the second
        say(f"{run.path.name}: no checkpoint was saved yet, so it begins anew")
        rundir.cut_metrics(run.path, 0)
    rundir.write_experiment(run.experiment)  # how often it saves may have changed
    if state is None or int(state.step) < run.experiment.run.steps:
        rundir.write_environment(run.path, run.dataset.fingerprint)


def notes(run: Assembled) -> list[str]:
    """What is allowed and may surprise."""
    warmup, steps = getattr(run.experiment.optimizer, "warmup_steps", 0), run.experiment.run.steps
    batch, rows = run.program.batch_size, len(run.dataset.splits["train"])
    found = []
    if warmup >= steps:
        found += [f"optimizer.warmup_steps {warmup} is not less than run.steps {steps}: the learning rate never gets to its peak"]
    if batch > rows:
        found += [f"data.batch_size {batch} is more than the {rows} rows of train: a batch holds some of them twice"]
    return found


def initial(run: Assembled, say: Callable[[str], None]) -> State:
    state = run.program.init()
    if run.experiment.init_from:
        state, report = initialise_from(state, run.program, rundir.find(run.experiment.init_from))
        counts = ", ".join(f"{len(found)} {what}{_some(found) if what != 'taken' else ''}" for what, found in report.items())
        say(f"{run.path.name}: parameters of {run.experiment.init_from}: {counts}")
    return state


def _some(found: list[str]) -> str:
    return f" ({', '.join(found[:4])}{', …' if found[4:] else ''})" if found else ""


def batches(run: Assembled, position: int = 0) -> Loader:
    """The training batches of a run, from the one of that number on."""
    settings = run.experiment.run
    numbered = Batches(run.dataset.splits["train"], run.program.batch_size, settings.seed, run.program.own_rows)
    return Loader(numbered, position, settings.read_threads, settings.read_workers)


def _steps(
    run: Assembled, state: State, reader: Loader, checkpoints: Checkpoints, progress: Progress, interrupted: dict
) -> dict[str, Any]:
    settings, program = run.experiment.run, run.program
    start, steps = int(state.step), settings.steps
    progress.begin(start)
    log = cluster.by_first(lambda: rundir.MetricsLog(run.path, start))
    meter = Meter(run.experiment, program, run.spec)
    if start:
        progress.say(f"{run.path.name}: continues at step {start} of {steps}")
    held_out = [split for split in run.dataset.splits if split != "train"]
    pending, due, found = [], None, {}

    def record(step: int, metrics: list[dict], counted: Counted, splits: list[str]) -> dict[str, dict]:
        """Logs the steps up to `step`, and evaluates the splits; their metrics."""
        fetched = jax.device_get(metrics)
        check_guard(run, fetched[-1]["guard"])
        values = meter.read(step, fetched, counted)
        progress.update(step, values)
        found = {split: evaluate(run, state.params, state.model_state, split) for split in splits}
        scalars = {f"{split}/{name}": v for split, all in found.items() for name, v in all.items() if isinstance(v, float)}
        if log:
            log.write(step, {**values, **scalars})
        return found

    try:
        for step in range(start + 1, steps + 1):
            with meter.waiting():
                batch = next(reader)
            meter.count(batch)
            state, metrics = program.step(state, program.place(batch))
            if step == start + 1:  # which compiled, and says nothing of speed
                jax.block_until_ready(metrics)
                meter.restart()
                progress.begin(step)
            if due is not None:  # the steps before, while this one runs
                record(*due, [])
                due = None
            pending.append(metrics)
            last, stop = step == steps, cluster.stopping(step, interrupted["by"] is not None)
            evaluates = bool(settings.evaluate_every and step % settings.evaluate_every == 0)
            saves = last or stop or step % settings.checkpoint_every == 0
            if evaluates or saves:
                found = record(step, pending, meter.take(), held_out if last else [run.dataset.held_out] * evaluates)
                pending = []
                if saves:
                    if log:
                        log.flush()
                    checkpoints.save(
                        state, run.dataset.fingerprint, mesh_text(program.mesh.shape), found.get(run.dataset.held_out)
                    )
                meter.restart()
            elif step % settings.log_every == 0:
                due, pending = (step, pending, meter.take()), []
            if stop and not last:
                checkpoints.wait()
                by = interrupted["by"] or signal.SIGTERM  # which another process got
                raise Interrupted(by, f"{run.path.name}: stopped and saved at step {step} of {steps}; {AGAIN}")
        checkpoints.wait()
        file = run.path / "result.json"
        if start == steps and cluster.gathered(file.exists())[0]:
            return rundir.read_result(run.path)
        result = found or {split: evaluate(run, state.params, state.model_state, split) for split in held_out}
        cluster.by_first(lambda: rundir.write_atomically(file, json.dumps(result, indent=2) + "\n"))
        if interrupted["by"] is not None:
            raise Interrupted(interrupted["by"], f"{run.path.name}: stopped, finished and saved; {AGAIN}")
        return result
    finally:
        if log:
            log.close()


def check_guard(run: Assembled, guard: Any) -> None:
    """Raises UserError where the guard's policy says so."""
    policy, skipped, bad_step = run.experiment.run.guard, int(guard.skipped), int(guard.bad_step)
    if bad_step < 0 or (policy.policy == "skip" and skipped <= policy.limit):
        return
    leaf = int(guard.bad_leaf)
    what = "the loss or the gradient norm is not finite, or spiked"
    if leaf >= 0:
        what = f"the gradient of {list(by_name(run.program.shapes.params))[leaf]} is not finite"
    count = ""
    if policy.policy == "skip":
        count = f"{skipped} updates were skipped, more than run.guard.limit {policy.limit}; the last at "
    raise UserError(f"{run.path.name}: {count}step {bad_step + 1}: {what}; lower --optimizer.learning-rate, or look at the batch")


def evaluate(run: Assembled, params: Any, model_state: Any, split: str) -> dict[str, Any]:
    """The objective's metrics over a whole split, summed in float64: float32 stops counting at 2^24."""
    total: Sums | None = None
    program = run.program
    for batch in evaluation_batches(run.dataset.splits[split], program.batch_size, program.own_rows):
        sums = program.evaluate(params, model_state, program.place(batch))
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    assert total is not None, f"the split {split} is empty"
    return run.experiment.objective.summarize(total)


class Interrupted(BaseException):
    """A signal ended the run. `signal` is its number; the message says what is saved."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number


@contextmanager
def interruptions(start: int) -> Iterator[dict]:
    """While active, the first SIGTERM or Ctrl-C only notes itself under `by`; the second acts at once. Of several processes the
    runtime notes them, and has all of them stop at one step after `start`."""
    noted: dict[str, int | None] = {"by": None}
    before = {}

    def note(number, _frame):
        noted["by"] = number
        signal.signal(number, before[number])
        if cluster.is_joined():
            os.kill(os.getpid(), signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, note)
    cluster.note_preemption(start)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def with_run(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with fields of its `run` changed."""
    return dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, **changes))
