"""The training loop: assemble, open the run, then step, log, evaluate and save until done.

Locks, signals, damaged files, lost processes and resumption are handled in `train/runs/opened.py`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from data.loader import evaluation_batches
from train import cluster, parts
from train.assemble import Job, assemble
from train.experiment import Experiment
from train.objectives import Sums
from train.runs.meter import Meter
from train.runs.opened import open_run


def train(
    experiment: Experiment, trusted: tuple[str, ...] = (), origin: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Train to the last step, resuming from the newest checkpoint. Return the metrics of each held-out split.

    `trusted` lists modules outside of the project that the saved experiment may use; `origin` is written to environment.json.
    Raises UserError for errors that the user can fix, and Interrupted after a signal, with the state saved.
    """
    job = assemble(experiment)
    program, settings = job.program, job.experiment.run

    def evaluate_splits(splits: Sequence[str]) -> dict[str, Any]:
        params, model_state = state.evaluated
        return {split: evaluate(job, params, model_state, split) for split in splits}

    with open_run(job, trusted, origin) as run, job.batches(run.position) as batches:
        state, step, results, pending = run.state, run.position, {}, None
        meter = Meter(job.experiment, program, job.spec)
        for step in range(run.position + 1, run.end + 1):
            with meter.waiting():
                batch = next(batches)
            state, metrics = program.step(state, program.place(batch))
            meter.add(batch, metrics)
            if pending is not None:  # log earlier steps while this one runs
                run.log(pending.read())
                pending = None

            is_last, should_stop = step == run.end, run.should_stop_after(step)
            should_evaluate = is_last or is_due(step, settings.evaluate_every)
            should_save = is_last or should_stop or is_due(step, settings.checkpoint_every)
            if should_evaluate or should_save:
                window = meter.close(step).read()
                results = evaluate_splits([job.dataset.held_out] if should_evaluate else [])
                is_last = run.ends_at(step, results)
                if is_last:
                    results |= evaluate_splits([split for split in job.dataset.held_out_splits if split not in results])
                run.log(window, results)
                if should_save or is_last:
                    run.save(state, results)
                meter.restart()
            elif is_due(step, settings.log_every):
                pending = meter.close(step)
            if should_stop or is_last:
                break
        return run.finish(step, results, lambda: evaluate_splits(job.dataset.held_out_splits))


def is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def evaluate(job: Job, params: Any, model_state: Any, split: str) -> dict[str, Any]:
    """Return the metrics of the objective over a whole split.

    Sums are float64, since float32 cannot count beyond 2^24. All processes return the same metrics.
    """
    program, objective = job.program, job.experiment.objective
    total: Sums | None = None
    predictions: list[Any] = []
    for batch in evaluation_batches(job.dataset.splits[split], program.batch_size, program.own_rows):
        placed = program.place(batch)
        sums = program.evaluate(params, model_state, placed)
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
        if parts.scores(objective):
            outputs = program.predict(params, model_state, placed)
            predictions += objective.describe(jax.device_get(outputs), job.dataset.codec) if cluster.is_first() else []
    assert total is not None, f"the split {split} is empty"
    summary = objective.summarize(total)
    if not parts.scores(objective):
        return summary
    if split not in job.dataset.references:
        cluster.say(f"{split}: {', '.join(parts.scores(objective))} left out, since its rows hold several examples")
        return summary
    references = job.dataset.references[split]
    predictions = predictions[: len(references)]  # without the padding rows of the last batch
    scores = cluster.on_first(lambda: parts.score(objective, predictions, references, summary))
    return {**summary, **cluster.gather(scores)[0]}
