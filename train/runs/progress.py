"""Progress of a run on stderr: a bar with loss, throughput and time left in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """A progress bar or plain lines. With several processes, `is_shown` is True in one of them."""

    def __init__(self, name: str, steps: int, is_shown: bool = True):
        self.name, self.steps, self.is_shown = name, steps, is_shown
        self.bar = None
        if is_shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
            )
            self.bar = Bar(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(name, total=steps, text="compiling")
            self.bar.start()
        self.printed = time.monotonic()

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        elif self.is_shown:
            print(text, file=sys.stderr, flush=True)

    def update(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the metrics of a logged step. Plain lines appear at most every ten seconds, and at the last step."""
        rates = (name for name in values if name.endswith("_per_second") and not name.endswith("tflops_per_second"))
        rate = next((f"{values[name]:,.0f} {name[len('train/') : -len('_per_second')]}/s" for name in rates), "")
        text = f"loss {values['train/loss']:.3f}  {rate}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, text=text)
            return
        now = time.monotonic()
        if self.is_shown and (now - self.printed >= 10 or step == self.steps):
            self.printed = now
            seconds = values.get("train/step_seconds")
            left = f"  {seconds * (self.steps - step):.0f} s left" if seconds is not None else ""
            print(f"{self.name}  step {step}/{self.steps}  {text}{left}", file=sys.stderr, flush=True)

    def evaluated(self, step: int, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Print one line of metrics per evaluated split."""
        for split, metrics in results.items():
            self.say(f"{self.name}  step {step}/{self.steps}  {metrics_line(split, metrics)}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def metrics_line(split: str, metrics: Mapping[str, Any]) -> str:
    """Return the name of a split and its scalar metrics, without copies of the loss (the term of a loss with a single term)."""
    return "  ".join([split, *(f"{name} {value:.4f}" for name, value in distinct(metrics).items())])


def distinct(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalar metrics, without copies of the loss."""
    scalars = {name: value for name, value in metrics.items() if isinstance(value, float)}
    return {name: value for name, value in scalars.items() if name == "loss" or value != scalars.get("loss")}
