"""`python -m train predict RUN --text "…"`: what a run says of new examples."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train import cli, cluster
from train.errors import UserError
from train.experiment import fields
from train.runs.trained import reopen
from train.verbs.evaluate import OfRun, say


@dataclass(frozen=True)
class Arguments(OfRun):
    """What a run predicts for new examples. Without --text and --input, reads standard input."""

    text: tuple[str, ...] | None = None
    "one or more texts"
    input: str | None = None
    "file of JSON lines: texts, or objects with the fields of an example"
    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "python -m train predict")
    if wanted.text is not None and wanted.input is not None:
        raise UserError("--text and --input are both given; one of them is to be predicted")
    if wanted.text is not None and not all(map(str.strip, wanted.text or [""])):
        raise UserError("--text is empty: a text is needed")
    wanted.join()
    experiment = wanted.read()
    cluster.check_alike({**fields(experiment), "--text": wanted.text, "--input": wanted.input})
    read = lambda: read_rows(wanted.input) if wanted.text is None else [{"text": text} for text in wanted.text]
    rows = cluster.gathered(cluster.by_first(read))[0]
    predictor = reopen(experiment, say)
    arrays, notes = predictor.codec.encode(rows)
    described = predictor(arrays)
    for note in notes:
        say(note)
    if wanted.json:
        print(json.dumps(described))
        return 0
    for row, one in zip(rows, described, strict=True):
        print(shown(row))
        for line in parts.render(experiment.objective, one).lines:
            print(f"  {line}")
    return 0


def shown(row: dict[str, Any]) -> str:
    """The text of a row, or where it has none its JSON, in at most 100 characters."""
    line = row["text"] if isinstance(row.get("text"), str) else json.dumps(row, ensure_ascii=False)
    return line if len(line) <= 100 else line[:99] + "…"


def read_rows(path: str | None) -> list[dict[str, Any]]:
    """Raises UserError if there is nothing to read, or a line is no row."""
    if path is None and sys.stdin.isatty():
        raise UserError("what to predict? --text TEXT, --input FILE.jsonl, or a pipe")
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
                raise UserError(f"{where}, line {number}: not JSON; a text in quotes, or an object, is needed") from None
            row = line  # a pipe may hold plain text
        if path is not None and not isinstance(row, str | dict):
            raise UserError(f"{where}, line {number}: a text in quotes, or an object, is needed")
        rows.append(row if isinstance(row, dict) else {"text": row if isinstance(row, str) else line})
    if not rows:
        raise UserError(f"{where}: there is nothing in it; --text TEXT or --input FILE.jsonl says what to predict")
    return rows
