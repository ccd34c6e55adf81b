"""`python -m train predict RUN --text "…"`: what a run says of new examples."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train import cli
from train.errors import UserError
from train.verbs.evaluate import OfRun, load, open_run

ROWS = 8  # computed at once


@dataclass(frozen=True)
class Arguments(OfRun):
    """The label and its probability, or the likeliest fills of each [MASK]. Without --text and --input, reads a pipe."""

    text: tuple[str, ...] = ()
    "one or more texts"
    input: str | None = None
    "a file of JSON lines, each a text or an object with the fields of an example"
    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "python -m train predict")
    rows = [{"text": text} for text in wanted.text] or read_rows(wanted.input)
    opened = open_run(wanted.run, wanted.import_file)
    arrays, notes = opened.dataset.encode(rows)
    described = predicted(opened, *load(opened), arrays)
    for note in notes:
        print(note, file=sys.stderr)
    print(json.dumps(described) if wanted.json else "\n".join(map(show, rows, described)))
    return 0


def read_rows(path: str | None) -> list[dict[str, Any]]:
    """Raises UserError if there is nothing to read, or a line is no row."""
    if path is None and sys.stdin.isatty():
        raise UserError("what to predict? --text TEXT, --input FILE.jsonl, or a pipe")
    where = path or "standard input"
    try:
        data = Path(path).read_bytes() if path else sys.stdin.buffer.read()
        lines = data.decode("utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} is not UTF-8") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if path:
                raise UserError(f"{where}, line {number}: not JSON; a text in quotes, or an object, is needed") from None
            row = line  # a pipe may hold plain text
        rows.append(row if isinstance(row, dict) else {"text": row if isinstance(row, str) else line})
    if not rows:
        raise UserError(f"{where}: there is nothing in it")
    return rows


def predicted(opened: Any, params: Any, model_state: Any, arrays: Mapping[str, Any]) -> list[dict]:
    """What the objective says of each row, a few at a time: a masked LM makes logits at every position."""
    import jax

    from data.loader import fill

    size, rows, found = ROWS, len(next(iter(arrays.values()))), []
    for start in range(0, rows, size):
        part = {name: column[start : start + size] for name, column in arrays.items()}
        batch = fill({**part, "valid": np.ones(min(size, rows - start), np.float32)}, size)
        found += opened.experiment.objective.describe(
            jax.device_get(opened.program.predict(params, model_state, batch)), opened.dataset
        )
    return found[:rows]


def show(row: dict, described: dict) -> str:
    """A few lines for a person."""
    text = str(row.get("text", "(not a text)"))
    lines = [text if len(text) <= 100 else text[:99] + "…"]
    if "label" in described:
        lines += [f"  {probability:6.1%}  {label}" for label, probability in list(described["probabilities"].items())[:5]]
    for fills in described.get("masks", []):
        lines.append("  [MASK]: " + ", ".join(f"{fill['token']} {fill['probability']:.1%}" for fill in fills))
    if described.get("masks") == []:
        lines.append("  there is no [MASK] in it to fill")
    return "\n".join(lines)
