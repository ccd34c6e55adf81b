"""Load a trained run to predict."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.dataset import Codec
from data.loader import fill
from train.errors import UserError
from train.experiment import Experiment
from train.runs import rundir
from train.runs.checkpoints import Checkpoints
from train.sharding import batch_ways, own_rows, put_batch
from train.step import Program, batch_spec, build

ROWS = 8  # rows per batch, rounded up to a multiple of the devices; small because outputs may be large


@dataclass(frozen=True)
class Predictor:
    """A trained run without its data. Call it with the arrays of some rows to get `objective.describe` of each row."""

    experiment: Experiment
    codec: Codec
    program: Program
    params: Any
    model_state: Any

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> list[Any]:
        ways = batch_ways(self.program.mesh, self.experiment.mesh.rules)
        size, rows, found = ways * math.ceil(ROWS / ways), len(next(iter(arrays.values()))), []
        sharding = self.program.batch_sharding
        own = own_rows(sharding, size)
        for start in range(0, rows, size):
            part = {name: column[start : start + size] for name, column in arrays.items()}
            batch = fill({**part, "valid": np.ones(min(size, rows - start), np.float32)}, size)
            batch = put_batch({name: column[own] for name, column in batch.items()}, sharding, size, own)
            outputs = jax.device_get(self.program.predict(self.params, self.model_state, batch))
            found += self.experiment.objective.describe(outputs, self.codec)
        return found[:rows]


def reopen(experiment: Experiment, say: Callable[[str], None]) -> Predictor:
    """Open the newest checkpoint of a run with the codec saved in its directory. The data is not needed.

    Raises UserError if the codec differs from the one that the run was trained with.
    """
    path = Path(experiment.run.dir)
    codec, trained_with = experiment.data.codec(path), rundir.read_fingerprint(path)
    for name, found in getattr(codec, "fingerprint", {}).items():
        if trained_with.get(name, found) != found:
            raise UserError(f"{path}: its {name} is {found}, but the run was trained with {trained_with[name]}; restore it")
    program = build(experiment, batch_spec(experiment.data), experiment.mesh.build())
    return Predictor(experiment, codec, program, *load(path, program, say))


def load(
    path: Path, program: Program, say: Callable[[str], None], step: int | None = None, best: bool = False
) -> tuple[Any, Any]:
    """Return (params, model state) from a checkpoint of a run: that of `step`, the best, or the newest."""
    with Checkpoints(path, say) as checkpoints:
        return checkpoints.restore_model(program, step, best)
