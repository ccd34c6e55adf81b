"""Assemble a job from an experiment: read the data, fill unknown fields, build the step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from data.dataset import Dataset
from data.loader import Batches, Loader
from train import cluster, parts, sharding
from train.errors import UserError
from train.experiment import Experiment, fields, resolve
from train.runs import rundir
from train.step import Program, batch_spec, build


@dataclass(frozen=True)
class Job:
    """A resolved experiment with its data and its program. Nothing is trained or written yet."""

    experiment: Experiment
    dataset: Dataset
    program: Program
    spec: dict[str, jax.ShapeDtypeStruct]

    @property
    def path(self) -> Path:
        return Path(self.experiment.run.dir)

    def batches(self, position: int = 0) -> Loader:
        """Return a loader of the training batches from `position` on. Each step takes one batch, so the position is the step."""
        run = self.experiment.run
        batches = Batches(self.dataset.splits["train"], self.program.batch_size, run.seed, self.program.own_rows)
        return Loader(batches, position, run.read_threads, run.read_workers)


def assemble(experiment: Experiment, is_new: bool = False, other: Dataset | None = None) -> Job:
    """Read the data, unless it is `other` data, and build the program. If `is_new`, ignore what the run directory holds.

    Raises UserError or DataError if its parts are incompatible.
    """
    mesh = experiment.mesh.build()
    sharding.check_batch(mesh, experiment.mesh.rules, experiment.data.batch_size, experiment.run.accumulation)
    dataset = other or inherited(experiment, is_new).build()
    experiment = resolve(experiment, dataset.facts)
    spec = batch_spec(experiment.data)
    job = Job(experiment, dataset, build(experiment, spec, mesh), spec)
    check_references(job)
    cluster.check_equal(fields(experiment) | {f"data {name}": value for name, value in dataset.fingerprint.items()})
    return job


def check_references(job: Job) -> None:
    """Raises UserError if `objective.score` needs references that the data does not have."""
    for split in job.dataset.held_out_splits if parts.scores(job.experiment.objective) else []:
        references, rows = job.dataset.references.get(split, ()), len(job.dataset.splits[split])
        if len(references) != rows:
            objective = type(job.experiment.objective).__name__
            raise UserError(f"objective {objective} needs {rows} references for {split}; the data has {len(references)}")


def inherited(experiment: Experiment, is_new: bool = False) -> Any:
    """Return the data config, completed from the files of the run to resume, or else of the `init_from` run.

    If `is_new`, no run is resumed. Raises UserError if the config contradicts these files.
    """
    own = Path(experiment.run.dir)
    cluster.refresh_folder(own)
    resumes = (own / "experiment.json").exists() and not is_new
    folder = own if resumes else rundir.find_initial(experiment.init_from) if experiment.init_from else None
    if folder is None:
        return experiment.data
    try:
        return parts.inherits(experiment.data, folder, resumes)
    except ValueError as error:
        raise UserError(str(error)) from None
