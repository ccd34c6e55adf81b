"""The metrics of a log line: losses, norms, and training throughput."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from train import machine, parts
from train.bench import flops
from train.experiment import Experiment
from train.objectives import means
from train.step import Program, check_guard


class Window(NamedTuple):
    """The steps up to `step` since the last log line."""

    step: int
    values: Mapping[str, Any]


class Meter:
    """Collects the metrics of steps without waiting for them, and measures the time between log lines."""

    def __init__(self, experiment: Experiment, program: Program, spec: dict):
        self.experiment, self.program = experiment, program
        shapes = program.shapes
        self.flops = flops.training(experiment.objective, experiment.model.build(), shapes.params, shapes.model_state, spec)
        self.rate = machine.matrix_rate(experiment.run.precision, list(program.mesh.devices.flat))
        self.readers = program.batch_size / len(program.own_rows)  # number of processes that read different rows
        self.metrics: list[dict] = []
        self.has_compiled = False
        self.restart()

    def restart(self) -> None:
        """Restart the clock after work other than training: compilation, an evaluation, a checkpoint."""
        self.steps, self.unit, self.units, self.waited = 0, "", 0, 0.0
        self.began = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time spent waiting for a batch."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def add(self, batch: Mapping[str, np.ndarray], metrics: dict) -> None:
        """Count a dispatched step: `batch` has the rows that this process read, `metrics` are on the devices."""
        self.metrics.append(metrics)
        if not self.has_compiled:  # the first step compiles, so its time is not counted
            jax.block_until_ready(metrics)
            self.has_compiled = True
            self.restart()
            return
        self.unit, units = parts.amount(self.experiment.data, batch)
        self.steps, self.units = self.steps + 1, self.units + round(units * self.readers)

    def close(self, step: int) -> "Pending":
        """End the window at `step` and begin the next one. The metrics of the window may still be computed."""
        pending = Pending(self, step, self.metrics, self.steps, self.unit, self.units, self.waited)
        self.metrics, self.steps, self.units, self.waited = [], 0, 0, 0.0
        return pending


class Pending(NamedTuple):
    """A window whose steps may still be running."""

    meter: Meter
    step: int
    metrics: list[dict]
    steps: int
    unit: str
    units: int
    waited: float

    def read(self) -> Window:
        """Wait for the metrics of the window and return them. Raises UserError if the guard stops the run."""
        fetched, meter = jax.device_get(self.metrics), self.meter
        now = time.perf_counter()
        seconds, meter.began = now - meter.began, now
        sums = jax.tree.map(lambda *xs: sum(xs), *(m["sums"] for m in fetched))
        guard = fetched[-1]["guard"]
        check_guard(meter.experiment, meter.program, guard)
        values: dict[str, Any] = dict(means(sums))
        values["skipped"] = skipped = int(guard.skipped)
        values["learning_rate"] = float(meter.program.schedule(self.step - 1 - skipped))  # the schedule counts updates
        if self.steps:
            values[f"{self.unit}_per_second"] = self.units / seconds
            values["step_seconds"] = seconds / self.steps
            values["tflops_per_second"] = meter.flops * self.steps / seconds / 1e12
            values["data_wait_share"] = self.waited / seconds
            values["share_of_matrix_rate"] = meter.flops * self.steps / seconds / meter.rate
        peak, where = machine.peak_memory()
        values[f"peak_{where}_memory_gib"] = peak
        return Window(self.step, {f"train/{name}": value for name, value in values.items()})
