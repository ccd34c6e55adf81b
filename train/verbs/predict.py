"""`fmodels predict RUN --text "…"`: predict new examples with a run."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    input: str | None = None
    "JSON Lines file: texts, or objects with the fields of an example"
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
    read = lambda: read_rows(wanted.input) if wanted.text is None else [{"text": text} for text in wanted.text]
    rows = cluster.gather(cluster.on_first(read))[0]
    predictor = reopen(experiment, cluster.say)
    arrays, notes = predictor.codec.encode(rows)
    predictions = predictor(arrays)
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
    """Return the text of a row, or its JSON if it has no text, cut to 100 characters."""
    line = row["text"] if isinstance(row.get("text"), str) else json.dumps(row, ensure_ascii=False)
    return line if len(line) <= 100 else line[:99] + "…"


def read_rows(path: str | None) -> list[dict[str, Any]]:
    """Read rows from a JSON Lines file, or from standard input, where a line may also be plain text. Raises UserError if there
    are no rows or a line is invalid."""
    if path is None and sys.stdin.isatty():
        raise UserError("nothing to predict: give --text TEXT or --input FILE.jsonl, or pipe rows to standard input")
    where = "standard input" if path is None else path
    try:
        data = Path(path).read_bytes() if path is not None else sys.stdin.buffer.read()
        lines = data.decode("utf-8-sig").split("\n")
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
        except (ValueError, RecursionError):
            if path is not None:
                raise UserError(f"{where}, line {number}: not JSON; expected a quoted text or an object") from None
            row = line  # standard input may hold plain text
        if path is not None and not isinstance(row, str | dict):
            raise UserError(f"{where}, line {number}: expected a quoted text or an object")
        rows.append(row if isinstance(row, dict) else {"text": row if isinstance(row, str) else line})
    if not rows:
        raise UserError(f"{where}: no rows to predict; give --text TEXT or --input FILE.jsonl")
    return rows
