"""What a person sees while a run trains: a bar with loss, rate and time left; plain lines where the output is no terminal."""

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """On stderr."""

    def __init__(self, name: str, steps: int, is_shown: bool = True):
        """Of several processes one is shown."""
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
        self.begin(0)

    def begin(self, start: int) -> None:
        """The time left is reckoned from here: the step that the run continues from, and again when it has compiled."""
        self.start, self.began, self.printed = start, time.monotonic(), time.monotonic()

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        elif self.is_shown:
            print(text, file=sys.stderr, flush=True)

    def update(self, step: int, values: Mapping[str, Any]) -> None:
        """The metrics of a logged step. Plain lines come at most every ten seconds, and at the end."""
        units = (name for name in ("tokens", "examples") if f"train/{name}_per_second" in values)
        rate = next((f"{values[f'train/{name}_per_second']:,.0f} {name}/s" for name in units), "")
        text = f"loss {values['train/loss']:.3f}  {rate}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, text=text)
            return
        now = time.monotonic()
        if self.is_shown and (now - self.printed >= 10 or step == self.steps):
            self.printed = now
            left = (now - self.began) / max(step - self.start, 1) * (self.steps - step)
            print(f"{self.name}  step {step}/{self.steps}  {text}  {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
