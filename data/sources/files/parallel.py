"""Parallel text files: one sentence per line, with a language code as suffix, such as train.en.gz and train.de.gz."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import zip_longest

from data.errors import DataError
from data.sources import WHERE, Bad, Row
from data.sources.files import formats
from data.sources.files.places import DAMAGE, File


def languages(parts: Mapping[str, File], names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the languages of the files that `names` asks for, or none if these are not parallel files."""
    found = {formats.language(name) for name in parts}
    return tuple(dict.fromkeys(name for name in names.values() if name in found)) if None not in found else ()


def rows(source: str, parts: Mapping[str, File], wanted: tuple[str, ...]) -> Iterator[Row | Bad]:
    """Yield {language: line} for each line of the files with the same name but for the language.

    Raises DataError if a file has no counterpart in another language, or another number of lines.
    """
    texts: dict[str, dict[str, File]] = {}
    for name, file in parts.items():
        language = formats.language(name)
        if language in wanted:
            start = name[: name.lower().rindex(f".{language}")]
            texts.setdefault(start, {})[language] = file
    for start, files in texts.items():
        if missing := [language for language in wanted if language not in files]:
            here = next(iter(files.values()))
            raise DataError(f"{source}: {here.where} has no counterpart {start}.{missing[0]}")
    for files in texts.values():
        try:
            yield from _aligned({language: files[language] for language in wanted})
        except DAMAGE as error:
            where = " or ".join(file.where for file in files.values())
            yield Bad(where, f"damaged or truncated: {error or 'unexpected end of file'}; earlier rows are intact")


def _aligned(files: Mapping[str, File]) -> Iterator[Row | Bad]:
    with ExitStack() as stack:
        streams = [formats.lines(stack.enter_context(file.open()), file.where) for file in files.values()]
        for number, found in enumerate(zip_longest(*streams)):
            if None in found:
                totals = [
                    number + (line is not None) + sum(1 for _ in stream) for line, stream in zip(found, streams, strict=True)
                ]
                counts = ", ".join(f"{file.where} has {n:,} lines" for file, n in zip(files.values(), totals, strict=True))
                raise DataError(f"{counts}: the lines of parallel files must correspond")
            bad = next((line for _, line in found if isinstance(line, Bad)), None)
            yield bad or {**dict(zip(files, (line for _, line in found), strict=True)), WHERE: found[0][0]}
