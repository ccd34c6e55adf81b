"""`fmodels predict RUN --text "…"`: predict new examples with a run."""

import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.dataset import fingerprint
from data.sources import WHERE
from train import cli, cluster, parts
from train.errors import UserError
from train.experiment import fields
from train.runs.arguments import RunArguments
from train.runs.trained import reopen


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Predict new examples with a run. Reads standard input if neither --text nor --input is given."""

    text: tuple[str, ...] | None = None
    "one or more texts to predict"
    input: tuple[str, ...] | None = None
    "files, folders or globs to predict, with the fields of the data of the run"
    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "fmodels predict")
    if wanted.text is not None and wanted.input is not None:
        raise UserError("--text and --input both give rows to predict; give one of them")
    if wanted.text is not None and not all(map(str.strip, wanted.text or [""])):
        raise UserError("--text is empty")
    wanted.join()
    experiment = wanted.read()
    cluster.check_equal({**fields(experiment), "--text": wanted.text, "--input": wanted.input})
    if wanted.input is not None:
        rows = parts.read_input(experiment.data, wanted.input)
        cluster.check_equal({"rows of --input": fingerprint(rows)})
    else:
        read = lambda: read_lines() if wanted.text is None else [{"text": text} for text in wanted.text]
        rows = cluster.gather(cluster.on_first(read))[0]
    predictor = reopen(experiment, cluster.say)
    arrays, notes = predictor.codec.encode(rows)
    owners = arrays.get("record", np.arange(len(rows)))  # the row of each example
    examples = [list[Any]() for _ in rows]
    for owner, prediction in zip(owners, predictor({k: v for k, v in arrays.items() if k != "record"}), strict=True):
        examples[owner].append(prediction)
    predictions = [parts.merged(experiment.objective, *pair) for pair in zip(examples, rows, strict=True)]
    for note in notes:
        cluster.say(note)
    if wanted.json:
        print(json.dumps(predictions))
        return 0
    for row, prediction in zip(rows, predictions, strict=True):
        print(summary(row))
        for line in parts.render(experiment.objective, prediction).lines:
            print(f"  {line}")
    return 0


def summary(row: dict[str, Any]) -> str:
    """Return the text of a row, or else its location or its JSON, cut to 100 characters."""
    line = row["text"] if isinstance(row.get("text"), str) else row.get(WHERE) or json.dumps(row, ensure_ascii=False)
    return line if len(line) <= 100 else line[:99] + "…"


def read_lines() -> list[dict[str, Any]]:
    """Read rows from standard input: one JSON object or text per line. Raises UserError if there are none."""
    if sys.stdin.isatty():
        raise UserError("nothing to predict: give --text TEXT or --input FILE, or pipe rows to standard input")
    try:
        lines = sys.stdin.buffer.read().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: byte {error.start} is not UTF-8") from None
    rows = []
    for line in filter(str.strip, lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = line
        rows.append(row if isinstance(row, dict) else {"text": row if isinstance(row, str) else line})
    if not rows:
        raise UserError("standard input: no rows to predict; give --text TEXT or --input FILE")
    return rows
