"""Where rows come from: one source a file.

A source is a frozen dataclass with `load() -> {split: rows}`. Rows of text have `text`, and `label` where they have one, or
`document`, which joins consecutive rows into one. An experiment names a source by a string, `NAME` or `NAME:ARGUMENT`, which
is `source(ARGUMENT)` of the module `data.sources.NAME`, or holds the source itself.
"""

import importlib
import pkgutil
from typing import Any

from data.errors import DataError

Rows = list[dict[str, Any]]


def load(source: Any) -> dict[str, Rows]:
    """The rows of each split of a source. Raises DataError if there is none of that name, or it has nothing to read."""
    if isinstance(source, str):
        name, _, argument = source.partition(":")
        known = sorted(module.name for module in pkgutil.iter_modules(__path__))
        if name not in known:
            raise DataError(
                f"data.source {source!r}: there is no source {name!r}; there are: {', '.join(known)}, as NAME or NAME:ARGUMENT"
            )
        source = importlib.import_module(f"data.sources.{name}").source(argument)
    return source.load()
