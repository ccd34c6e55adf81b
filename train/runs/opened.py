"""Open a run directory for training, and guard the run.

Opening locks the directory, checks that it belongs to this experiment and that its data did not change, and restores or
initializes the state. An open run writes logs and checkpoints, and ends the run after a signal.
"""

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train import cluster, parts
from train.runs.meter import Window
from train.assemble import Job
from train.errors import UserError
from train.experiment import Experiment
from train.plan import layout
from train.runs.progress import Progress
from train.notes import unprinted
from train.runs import rundir
from train.runs.begin import initial
from train.runs.best import Best, best_of, overfitting
from train.runs.checkpoints import Checkpoints
from train.runs.log import MetricsLog, cut_metrics, read_metrics
from train.runs.signals import RERUN, Interrupted, interruptions
from train.sharding import mesh_text
from train.step import State

Say = Callable[[str], None]


class OpenRun:
    """A run directory open for training, on all processes of the run.

    `state` is the state to start from, `position` its step, and `end` the step at which training ends.
    """

    def __init__(
        self,
        job: Job,
        state: State,
        checkpoints: Checkpoints,
        best: Best,
        log: MetricsLog | None,
        progress: Progress,
        signals: dict,
    ):
        self.job, self.state, self.position = job, state, int(state.step)
        self.checkpoints, self.metrics_log, self.progress, self.signals = checkpoints, log, progress, signals
        self.best = best
        self.values, seconds = cluster.gather(cluster.on_first(lambda: before(job.path, best)))[0]
        self.began = time.monotonic() - seconds
        self.steps, self.patience = job.experiment.run.steps, job.experiment.run.patience
        self.end = self.steps
        self.end_early(self.position)

    def end_early(self, step: int) -> None:
        """End training at this step if the last `run.patience` evaluations brought no new best value."""
        if step < self.steps and self.patience is not None and self.best.since_best(self.values) >= self.patience:
            self.end = step
            reason = f"no better {self.best.metric} in {self.patience} evaluations (run.patience)"
            self.progress.say(f"{self.job.path.name}: ends at step {step}: {reason}")

    def ends_at(self, step: int, results: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether training ends after this step: the last one, or earlier by `run.patience`. `results` are those of this step."""
        if found := [value for name, value in scalars(results).items() if name == self.best.metric]:
            self.values += found
            self.end_early(step)
        return step == self.end

    def log(self, window: Window, results: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Write one line with the metrics of the last steps and of the evaluated splits."""
        self.progress.update(window.step, window.values)
        self.progress.evaluated(window.step, results or {})
        if self.metrics_log:
            seconds = {"train/wall_seconds": time.monotonic() - self.began}
            self.metrics_log.write(window.step, {**window.values, **seconds, **scalars(results or {})})

    def save(self, state: State, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Start to write a checkpoint. `results` decides whether it is the best, if it has the metric."""
        if self.metrics_log:
            self.metrics_log.flush()
        self.checkpoints.save(state, self.job.dataset.fingerprint, mesh_text(self.job.program.mesh.shape), scalars(results))

    def should_stop_after(self, step: int) -> bool:
        """Return whether a signal ends the run after this step, the same in all processes. Must be called at every step."""
        return cluster.should_stop(step, self.signals["by"] is not None)

    def finish(self, step: int, results: dict[str, Any], evaluate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Wait until everything is on disk, and return the metrics of the held-out splits.

        `results` are those of the last step. If they are empty, they are read from result.json of a finished run, or evaluated.
        Raises Interrupted if a signal ended the run.
        """
        self.checkpoints.wait()
        name = self.job.path.name
        if step < self.end:
            by = self.signals["by"] or signal.SIGTERM  # default: another process got the signal
            raise Interrupted(by, f"{name}: stopped and saved at step {step} of {self.steps}; {RERUN}")
        file = self.job.path / "result.json"
        if not results and cluster.gather(file.exists())[0]:
            return rundir.read_result(self.job.path)
        results = results or evaluate()
        cluster.on_first(lambda: rundir.write_atomically(file, json.dumps(results, indent=2) + "\n"))
        if warning := overfitting(read_metrics(self.job.path), self.best, self.checkpoints.best().get("step"), self.patience):
            self.progress.say(f"{name}: {warning}")
        if self.signals["by"] is not None:
            raise Interrupted(self.signals["by"], f"{name}: stopped, finished and saved; {RERUN}")
        return results


def before(path: Path, best: Best) -> tuple[list[float], float]:
    """Return the logged values of the best metric, and the seconds that the run has taken."""
    log = read_metrics(path)
    return list(best.logged(log).values()), max((row.get("train/wall_seconds", 0.0) for row in log), default=0.0)


def scalars(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the scalar metrics by `SPLIT/METRIC`."""
    return {
        f"{split}/{name}": value for split, found in results.items() for name, value in found.items() if isinstance(value, float)
    }


@contextlib.contextmanager
def open_run(job: Job, trusted: tuple[str, ...], origin: Mapping[str, Any]) -> Iterator[OpenRun]:
    """Open the run directory of an assembled experiment to train it.

    `trusted` are modules outside of the project that its saved experiment may use, and `origin` says how the run is started.
    Raises UserError if the directory belongs to another experiment, is being trained, cannot be written, or has lost its
    checkpoints.
    """
    experiment, path = job.experiment, job.path
    with contextlib.ExitStack() as stack:
        progress = Progress(path.name, experiment.run.steps, cluster.is_first())
        stack.callback(progress.close)
        best = best_of(job)
        before = rundir.saved_experiment(experiment, trusted)
        if before is not None:
            rundir.same_data(path, job.dataset.fingerprint, parts.accept_changed(experiment.data), progress.say)
        cluster.check_equal({"the run directory": "begun" if before is not None else "new"})
        fresh = initial(job, progress.say) if before is None else None  # before writing anything, since it may raise
        lock = cluster.on_first(lambda: write(job, before is not None, origin, progress.say))
        if lock is not None:
            stack.callback(os.close, lock)
        cluster.check_shared_folder(path)
        for note in unprinted([*job.dataset.notes, *notes(job)]):
            progress.say(f"{path.name}: {note}")
        checkpoints = stack.enter_context(Checkpoints(path, progress.say, best, experiment.run.keep))
        state = checkpoints.restore(job.program) if before is not None else None
        if before is not None:
            restored = state
            cluster.on_first(lambda: resume(job, before, restored, origin, progress.say))
        if state is None:
            state = fresh or initial(job, progress.say)
        position = int(state.step)
        signals = stack.enter_context(interruptions(position))
        log = cluster.on_first(lambda: MetricsLog(path, position))
        if log:
            stack.callback(log.close)
        if position:
            progress.say(f"{path.name}: resumes at step {position} of {experiment.run.steps}")
        yield OpenRun(job, state, checkpoints, best, log, progress, signals)


def write(job: Job, is_begun: bool, origin: Mapping[str, Any], say: Say) -> int:
    """Lock the run directory and write its files before the first step.

    Return the file descriptor that holds the lock while open. Raises UserError if another process began the run meanwhile.
    """
    path = job.path
    lock = rundir.claim(path, say)
    if not is_begun and (path / "experiment.json").exists():
        os.close(lock)
        raise UserError(f"another process started a run in {path} meanwhile; {RERUN}")
    if not is_begun:
        rundir.write_environment(path, job.dataset.fingerprint, origin)
    for name, text in job.dataset.codec.files.items():
        rundir.write_atomically(path / name, text)
    if bad := job.dataset.bad_records:
        rundir.write_atomically(path / "bad_records.jsonl", "".join(f"{line}\n" for line in bad))
        say(f"{path.name}: skipped {len(bad)} bad records; {path / 'bad_records.jsonl'} lists them")
    if job.program.mesh.size > 1:
        table = layout.table(job.program, job.experiment.mesh.rules, job.spec)
        rundir.write_atomically(path / "shardings.txt", f"{table}\n")
    if not is_begun:
        rundir.write_experiment(job.experiment)  # last: the run has begun once this file exists
    return lock


def resume(job: Job, before: Experiment, state: State | None, origin: Mapping[str, Any], say: Say) -> None:
    """Prepare the directory for a resumed run. `state` is from the last checkpoint, or None.

    Raises UserError if the run has lost its checkpoints, or its log is damaged.
    """
    path, run, log = job.path, job.experiment.run, read_metrics(job.path)
    position = 0 if state is None else int(state.step)
    if state is None:
        interval = max(before.run.checkpoint_every, run.checkpoint_every)
        check_not_lost(path, 2 * interval)  # the first checkpoint may be unfinished until the second is due
        say(f"{path.name}: no checkpoint was saved yet; starting again at step 0")
        cut_metrics(path, 0)
    rundir.write_experiment(job.experiment)  # fields marked `how` may differ, and run.steps may grow
    if position < run.steps:
        (path / "result.json").unlink(missing_ok=True)  # result of a shorter run
        rundir.write_environment(path, job.dataset.fingerprint, origin)
    changed = schedule_change(job, [row for row in log if row["step"] <= position], position)
    if changed:
        say(f"{path.name}: {changed}")
    if run.steps > before.run.steps:
        unchanged = "" if changed else "; the learning rate of the steps so far does not change"
        say(f"{path.name}: extended from {before.run.steps} to {run.steps} steps{unchanged}")


def schedule_change(job: Job, log: Sequence[Mapping[str, Any]], position: int) -> str:
    """Return a message if the logged learning rates differ from the schedule, which depends on run.steps; else an empty string."""
    rate, name = job.program.schedule, "train/learning_rate"
    rows = [row for row in log if row.get(name) is not None and "train/skipped" in row]
    logged = [(row["step"], row[name], float(rate(row["step"] - 1 - row["train/skipped"]))) for row in rows]
    if all(math.isclose(was, now, rel_tol=1e-5) for _, was, now in logged):
        return ""
    step, was, _ = logged[-1]
    return (
        f"the schedule differs from that of the steps so far: the learning rate was {was:.3g} at step {step} and is "
        f"{float(rate(position)):.3g} at step {position + 1}; of the schedules, only constant, rsqrt, and wsd before its decay do "
        "not depend on run.steps"
    )


def check_not_lost(path: Path, step: int) -> None:
    """Raises UserError if checkpoints were lost: a run without any is finished, or has logged a step after `step`."""
    if (path / "result.json").exists() or any(row["step"] > step for row in read_metrics(path)):
        raise UserError(f"{path}: its checkpoints are missing; restore them, or choose another --run.dir")


def notes(job: Job) -> list[str]:
    """Return warnings about valid but surprising settings."""
    warmup, steps = parts.warmup_steps(job.experiment.optimizer), job.experiment.run.steps
    batch, rows = job.program.batch_size, len(job.dataset.splits["train"])
    found, run = [], job.experiment.run
    if run.best is not None and (not run.evaluate_every or run.evaluate_every % run.checkpoint_every):
        found += ["run.best: only steps that both evaluate and save can be the best: make evaluate_every a multiple of checkpoint_every"]
    if warmup >= steps:
        found += [f"optimizer.warmup_steps {warmup} is not less than run.steps {steps}: the learning rate never reaches its peak"]
    if batch > rows:
        found += [f"data.batch_size {batch} is more than the {rows} rows of train: a batch contains some rows twice"]
    return found
