"""From the sums of steps to the figures of a log line: losses, norms, and the speed of training alone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from train import machine
from train.bench import flops
from train.experiment import Experiment
from train.objectives import means
from train.step import Program


class Counted(NamedTuple):
    """What was dispatched between two log lines, and the seconds that were spent in waiting for batches."""

    steps: int
    unit: str
    units: int
    waited: float


NOTHING = Counted(0, "", 0, 0.0)


class Meter:
    """Counts what is dispatched, and tells time when it is done."""

    def __init__(self, experiment: Experiment, program: Program, spec: dict):
        self.schedule = program.schedule
        shapes = program.shapes
        self.flops = flops.training(experiment.objective, experiment.model.build(), shapes.params, shapes.model_state, spec)
        self.rate = machine.matrix_rate(experiment.run.precision, list(program.mesh.devices.flat))
        self.processes = program.batch_size / len(program.own_rows)  # that read different rows, and about as much each
        self.counted = NOTHING
        self.restart()

    def restart(self) -> None:
        """What was counted, and the time until now, is not training: compilation, an evaluation, a checkpoint."""
        self.take()
        self.began = time.perf_counter()

    def count(self, batch: dict[str, np.ndarray]) -> None:
        unit, units = size(batch)
        units = round(units * self.processes)
        self.counted = self.counted._replace(steps=self.counted.steps + 1, unit=unit, units=self.counted.units + units)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.counted = self.counted._replace(waited=self.counted.waited + time.perf_counter() - began)

    def take(self) -> Counted:
        """What was counted since the last time."""
        counted, self.counted = self.counted, NOTHING
        return counted

    def read(self, step: int, metrics: list[dict], counted: Counted) -> dict[str, Any]:
        """The figures of the steps up to `step`, whose metrics have just arrived."""
        now = time.perf_counter()
        seconds, self.began = now - self.began, now
        sums = jax.tree.map(lambda *xs: sum(xs), *(m["sums"] for m in metrics))
        values: dict[str, Any] = {name: value for name, value in means(sums).items()}
        values["skipped"] = skipped = int(metrics[-1]["guard"].skipped)
        values["learning_rate"] = float(self.schedule(step - 1 - skipped))  # the schedule counts updates
        if counted.steps:
            values[f"{counted.unit}_per_second"] = counted.units / seconds
            values["step_seconds"] = seconds / counted.steps
            values["tflops_per_second"] = self.flops * counted.steps / seconds / 1e12
            values["data_wait_share"] = counted.waited / seconds
            values["share_of_matrix_rate"] = self.flops * counted.steps / seconds / self.rate
        peak, where = machine.peak_memory()
        values[f"peak_{where}_memory_gib"] = peak
        return {f"train/{name}": value for name, value in values.items()}


def size(batch: dict[str, np.ndarray]) -> tuple[str, int]:
    """What a batch is counted in, and how many: tokens that are not padding, or examples."""
    if "tokens" in batch:
        real = batch.get("mask", batch.get("sequences"))
        return "tokens", int(batch["tokens"].size if real is None else np.count_nonzero(real))
    return "examples", len(batch["valid"])
