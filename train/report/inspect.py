"""Show the data of an experiment: its size, its preparation, overlap of its splits, and one batch as the step sees it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from data.dataset import Dataset
from data.loader import Batches, Loader
from train import parts
from train.assemble import Job

BAR = 30  # characters of the longest bar of a histogram


def show(job: Job, stem: Path, console: Console) -> None:
    """Print the data of a job. Names of files that this writes begin with `stem`."""
    experiment = job.experiment
    with job.batches() as batches:
        batch = next(batches)
    seen = parts.seen(experiment.objective, batch, jax.random.key(experiment.run.seed))
    _show(job.dataset, experiment.data, batch, seen, stem, console)


def show_data(data: Any, stem: Path, console: Console) -> None:
    """Print a data config, as `show` does, without an objective."""
    dataset = data.build()
    with Loader(Batches(dataset.splits["train"], data.batch_size, 0)) as batches:
        batch = next(batches)
    _show(dataset, data, batch, batch, stem, console)


def _show(dataset: Dataset, data: Any, batch: Mapping, seen: Mapping, stem: Path, console: Console) -> None:
    """Print tables and a batch."""
    for title, found in dataset.about.items():
        console.print(_table(title, found))
    for note in dataset.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    for line in parts.overlaps(data, dataset):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(_table("fingerprint", dataset.fingerprint))
    console.print(_table("first batch", {name: f"{x.dtype} {list(x.shape)}" for name, x in batch.items()}))
    for line in parts.show(data, batch, seen, dataset.codec, stem):
        console.print(line, soft_wrap=True, highlight=False)


def _table(title: str, found: Any) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
        min_width=len(title),
    )
    for name, value in found.items():
        if isinstance(value, dict):
            for number, (bucket, row) in enumerate(histogram(value)):
                table.add_row("" if number else name, f"{bucket:>12} {row}")
        else:
            share = isinstance(value, float)
            table.add_row(name, f"{value:.2%}" if share else f"{value:,}" if isinstance(value, int) else str(value))
    return table


def histogram(counts: dict[str, int]) -> list[tuple[str, str]]:
    most = max(counts.values(), default=1)
    return [(name, f"{'█' * round(BAR * count / max(most, 1))} {count:,}") for name, count in counts.items()]
