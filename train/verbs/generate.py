"""`fmodels generate RUN --prompt "…"`: generate texts with a run."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from data.dataset import fingerprint
from data.errors import DataError
from data.sources import WHERE, Bad
from data.sources.files import Files
from train import cli, cluster, parts
from train.errors import UserError
from train.experiment import fields
from train.generation import Generated, Generator, Options
from train.runs.arguments import RunArguments
from train.runs.trained import reopen


@dataclass(frozen=True)
class Arguments(Options, RunArguments):
    """Generate texts with a run. Prints texts as they grow, or JSON lines {"prompt": …, "text": …, "ended_by": …}."""

    prompt: tuple[str, ...] | None = None
    "one or more texts to generate from"
    input: str | None = None
    "file to generate from: its field prompt (encoder-decoders: source), or the lines of a text file; prints JSON lines"
    examples: str | None = None
    "file with the fields prompt and text; every prompt follows these examples, each with an empty line after it"
    output: str | None = None
    "file for the JSON lines, in the order of the prompts (None: standard output)"
    json: bool = False
    "print JSON lines and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "fmodels generate")
    if (wanted.prompt is None) == (wanted.input is None):
        raise UserError("give the texts to generate from: either --prompt TEXT … or --input FILE")
    wanted.join()
    experiment = wanted.read()
    field = parts.generates_from(experiment.objective)
    rows = given(wanted, field)
    examples = "" if wanted.examples is None else read_examples(wanted.examples, field)
    options = {f.name: repr(getattr(wanted, f.name)) for f in dataclasses.fields(Options)}
    cluster.check_equal({**fields(experiment), **options, "prompts": fingerprint(rows, examples)})
    predictor = reopen(experiment, cluster.say)
    prompts = parts.prompts(experiment.objective, [{**row, field: examples + row[field]} for row in rows], predictor.codec)
    grows = wanted.input is None and wanted.output is None and not wanted.json
    names = [row[WHERE] for row in rows]
    generator = Generator(predictor, prompts, names, wanted, 1 if grows else wanted.batch_size)
    with opened(wanted.output) as file:
        for note in generator.notes():
            cluster.say(note)
        if grows:
            show = lambda text: print(text, end="", flush=True)
            for i, row in enumerate(rows):
                show("\n" * (i > 0) + row[field] * prompts.is_continued)
                list(generator([i], show))
                show("\n")
        else:
            for i, found in in_order(generator(range(len(rows)))):
                print(json.dumps({field: rows[i][field], **found._asdict()}, ensure_ascii=False), file=file, flush=True)
    return 0


def given(wanted: Arguments, field: str) -> list[dict[str, Any]]:
    """Return a row for each text to generate from. Raises UserError for a row of the file without one."""
    if wanted.input is None:
        texts = wanted.prompt or ()
        if not texts:
            raise UserError("--prompt is empty")
        names = [f"--prompt, text {i}" for i in range(1, len(texts) + 1)] if len(texts) > 1 else ["--prompt"]
        return [{field: text, WHERE: name} for text, name in zip(texts, names, strict=True)]
    rows = []
    for row in read(wanted.input):
        text = row.get(field, row.get("text"))
        if not isinstance(text, str):
            raise UserError(f"{row[WHERE]}: no text in the field {field!r}; available: {available(row)}")
        rows.append({field: text, WHERE: row[WHERE]})
    return rows


def read_examples(path: str, field: str) -> str:
    """Return the examples of a file, as they are put before every prompt."""
    found = ""
    for row in read(path):
        if not (isinstance(row.get(field), str) and isinstance(row.get("text"), str)):
            raise UserError(f"{row[WHERE]}: an example has the fields {field!r} and 'text'; available: {available(row)}")
        found += f"{row[field]}{row['text']}\n\n"
    return found


def read(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file. Raises DataError if it cannot be read."""
    for row in Files(path).rows({}):
        if isinstance(row, Bad):
            raise DataError(f"{row.where}: {row.what}")
        yield {WHERE: path, **row}


def available(row: dict[str, Any]) -> str:
    return ", ".join(name for name in row if name != WHERE)


def in_order(found: Iterator[tuple[int, Generated]]) -> Iterator[tuple[int, Generated]]:
    """Yield the texts in the order of their indices, each as soon as those before it are known."""
    waiting, following = dict[int, Generated](), 0
    for i, text in found:
        waiting[i] = text
        while following in waiting:
            yield following, waiting.pop(following)
            following += 1


@contextlib.contextmanager
def opened(path: str | None) -> Iterator[TextIO]:
    """Open the file to write, on the first process only; the others write nothing."""
    file = None if path is None else cluster.on_first(partial(Path(path).open, "w", encoding="utf-8"))
    with file or contextlib.nullcontext(sys.stdout) as output:
        yield output
