"""`python -m train predict RUN --text "…"`: what a run says of new examples."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Codec
from data.text.tokenizer import TOKENIZER_FILE, Tokenizer
from train import cli, cluster
from train.errors import UserError
from train.experiment import Experiment, fields
from train.runs import rundir
from train.verbs.evaluate import OfRun, load, say

ROWS = 8  # computed at once, or what all devices can share: a masked LM makes logits at every position


@dataclass(frozen=True)
class Arguments(OfRun):
    """The label and its probability, or the likeliest fills of each [MASK]. Without --text and --input, reads a pipe."""

    text: tuple[str, ...] | None = None
    "one or more texts"
    input: str | None = None
    "a file of JSON lines, each a text or an object with the fields of an example: text, or image, as a path or as numbers"
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
    predictor = reopen(experiment)
    arrays, notes = predictor.codec.encode(rows)
    described = predictor(arrays)
    for note in notes:
        say(note)
    print(json.dumps(described) if wanted.json else "\n".join(map(show, rows, described)))
    return 0


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


@dataclass(frozen=True)
class Predictor:
    """A trained run, without its data: called with arrays, it says what the objective says of each row."""

    experiment: Experiment
    codec: Codec
    program: Any
    params: Any
    model_state: Any

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> list[dict]:
        import jax

        from data.loader import fill
        from train.sharding import batch_ways, own_rows, put_batch

        ways = batch_ways(self.program.mesh, self.experiment.mesh.rules)
        size, rows, found = ways * math.ceil(ROWS / ways), len(next(iter(arrays.values()))), []
        over = self.program.batch_sharding
        own = own_rows(over, size)
        for start in range(0, rows, size):
            part = {name: column[start : start + size] for name, column in arrays.items()}
            batch = fill({**part, "valid": np.ones(min(size, rows - start), np.float32)}, size)
            batch = put_batch({name: column[own] for name, column in batch.items()}, over, size, own)
            outputs = jax.device_get(self.program.predict(self.params, self.model_state, batch))
            found += self.experiment.objective.describe(outputs, self.codec)
        return found[:rows]


def reopen(experiment: Experiment) -> Predictor:
    """The newest checkpoint of a run, with what its directory keeps to read rows: its data is not needed."""
    from train.loop import batch_spec
    from train.step import build

    path = Path(experiment.run.dir)
    codec = experiment.data.codec(path)
    trained_with = rundir.read_fingerprint(path).get("tokenizer")
    if trained_with and trained_with != Tokenizer(codec.files[TOKENIZER_FILE]).hash:
        raise UserError(f"{path / TOKENIZER_FILE} is not the tokenizer that the run was trained with, {trained_with}: restore it")
    program = build(experiment, batch_spec(experiment), experiment.mesh.build())
    return Predictor(experiment, codec, program, *load(path, program))


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
