"""A person's look at the data of an experiment: what there is, what was done to it, and one batch as the step sees it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from train.loop import Assembled, batches

ROWS, IMAGES = 6, 64  # of the batch that is shown
BAR = 30  # characters of the longest bar of a histogram


def show(run: Assembled, picture: Path, console: Console) -> None:
    """Prints tables, then a few decoded rows with their masks in colour; images are written to `picture`."""
    dataset = run.dataset
    for title, found in dataset.about.items():
        console.print(_table(title, found))
    for note in dataset.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    console.print(_table("fingerprint", dataset.fingerprint))
    with batches(run) as reader:
        batch = next(reader)
    console.print(_table("first batch", {name: f"{x.dtype} {list(x.shape)}" for name, x in batch.items()}))
    if "tokens" in batch:
        for line in decoded(run, batch):
            console.print(line, soft_wrap=True)
    if "image" in batch:
        grid(batch, dataset.codec.labels, picture)
        console.print(f"{picture} has {min(IMAGES, len(batch['image']))} images of the first batch", highlight=False)


def _table(title: str, found: Any) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0))
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


def decoded(run: Assembled, batch: dict[str, np.ndarray]) -> list[Text]:
    """The first rows of a batch in words: special tokens dim; what a masked LM hides in colour, with what stood there."""
    objective, token = run.experiment.objective, run.dataset.codec.token
    shown, hidden = batch["tokens"][:ROWS], np.zeros(batch["tokens"][:ROWS].shape, bool)
    if hasattr(objective, "corrupt"):
        part = {name: x[:ROWS] for name, x in batch.items()}
        shown, positions, weights = map(np.asarray, objective.corrupt(part, jax.random.key(run.experiment.run.seed), True))
        np.put_along_axis(hidden, positions, weights > 0, axis=1)
    lines = []
    for row, (seen, was) in enumerate(zip(shown, batch["tokens"], strict=False)):
        line = Text(f"{row}: ")
        differs = np.flatnonzero((was != was[-1]) | hidden[row])
        filled = int(differs.max(initial=-1)) + 1  # and all after it is one token
        for at, (new, old) in enumerate(zip(seen[:filled], was[:filled], strict=True)):
            if hidden[row, at]:
                style = "black on yellow" if new == objective.mask_id else "black on red" if new != old else "black on green"
                line.append(f"{token(int(new))}", style)
                line.append(f"({token(int(old))}) ", "yellow")
            else:
                line.append(f"{token(int(new))} ", "dim" if batch["words"][row, at] < 0 else "")
        if filled < len(seen):
            line.append(f"{token(int(seen[-1]))} x {len(seen) - filled}", "dim")
        lines.append(line)
    if hidden.any():
        legend = Text("hidden: ")
        for what, style in (("masked", "black on yellow"), ("random", "black on red"), ("kept", "black on green")):
            legend.append(f" {what} ", style)
        lines.append(legend.append(" (what stood there)", "yellow"))
    return lines


def grid(batch: dict[str, np.ndarray], labels: Any, picture: Path) -> None:
    from matplotlib.figure import Figure

    images = batch["image"][:IMAGES]
    side = int(np.ceil(np.sqrt(len(images))))
    figure = Figure(figsize=(1.1 * side, 1.2 * side), layout="constrained")
    for place, (image, label) in enumerate(zip(images, batch["label"], strict=False), 1):
        axes = figure.add_subplot(side, side, place)
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set_title(labels[int(label)], fontsize=7)
        axes.axis("off")
    figure.savefig(picture)
