"""Examples on disk: written once from a stream as ArrayRecord, read by index.

A record is a row of fixed arrays, one after another as numpy has them in memory, and after them, where rows have one, a column
of bytes of any length (a text, an encoded image). So a batch is read by one call, and taken apart by one more. Columns of
numbers, which are asked for as a whole (labels), have a file of their own each.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.cache import damaged, read_json
from data.dataset import Batch, Spec

IN_MEMORY = 1 << 28  # bytes of fixed arrays that are kept in memory rather than read again


class Writer:
    """Appends rows to `path`. Use as a context manager; what was not left by its end is no store."""

    def __init__(self, path: Path, columns: Mapping[str, Spec]):
        from array_record.python.array_record_module import ArrayRecordWriter

        self.path, self.columns, self.count = path, columns, 0
        self.dtype = np.dtype([(name, s.dtype, s.shape) for name, s in columns.items() if s.shape])
        self.numbers = {name: _column(path, name).open("wb") for name, s in columns.items() if not s.shape}
        self.writer = ArrayRecordWriter(str(path), "group_size:1")

    def append(self, row: Mapping[str, Any], rest: bytes = b"") -> bytes:
        """Returns what was written. Raises OSError where it cannot be, or `close` does: what is written is buffered."""
        fixed = np.zeros((), self.dtype)
        for name in self.dtype.names or ():
            fixed[name] = row[name]
            assert np.array_equal(fixed[name], row[name]), f"{name} does not fit into {self.columns[name].dtype}"
        record = fixed.tobytes() + rest
        self.writer.write(record)
        if not self.writer.ok():
            self.close()
        numbers = {name: np.asarray(row[name], self.columns[name].dtype).tobytes() for name in self.numbers}
        for name, file in self.numbers.items():
            file.write(numbers[name])
        self.count += 1
        return b"".join([*numbers.values(), record])

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, *_) -> None:
        self.close(whole=kind is None)

    def close(self, whole: bool = True) -> None:
        errors: list[Exception] = []
        for file in (self.writer, *self.numbers.values()):
            try:
                file.close()
            except (RuntimeError, OSError) as error:
                errors.append(error)
        if errors and whole:
            said = str(errors[0])  # `write() failed: No space left on device; writing …`, if it is the writer's
            reason = getattr(errors[0], "strerror", None) or said.partition("failed: ")[2].partition(";")[0] or said
            raise OSError(None, reason, str(self.path))
        if whole:
            described = {"count": self.count, "columns": {n: [np.dtype(s.dtype).str, *s.shape] for n, s in self.columns.items()}}
            _beside(self.path).write_text(json.dumps(described), "utf-8")


class Stored:
    """The rows of a store: the columns that `wanted` names, in its dtypes; all, as they are, without. Small ones are held in
    memory, and of large ones only where each row begins."""

    def __init__(self, path: Path, wanted: Mapping[str, Spec] | None = None):
        described = read_json(_beside(path))
        self.path, self.count = path, described["count"]
        columns = {name: (kind, tuple(shape)) for name, (kind, *shape) in described["columns"].items()}
        self.dtype = np.dtype([(name, kind, shape) for name, (kind, shape) in columns.items() if shape])
        self.numbers = {name: np.dtype(kind) for name, (kind, shape) in columns.items() if not shape}
        self.wanted = {
            name: np.dtype(kind if wanted is None else wanted[name].dtype)
            for name, (kind, _) in columns.items()
            if wanted is None or name in wanted
        }
        self._reader, self._memory = None, None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        indices = np.asarray(indices)
        rows = self._fixed(indices) if any(name in self.wanted for name in self.dtype.names or ()) else {}
        return {
            name: (self.column(name)[indices] if name in self.numbers else rows[name]).astype(kind)
            for name, kind in self.wanted.items()
        }

    def column(self, name: str) -> np.ndarray:
        """The numbers of all rows in a column of numbers, mapped into memory."""
        if not self.count:
            return np.empty(0, self.numbers[name])
        try:
            return np.memmap(_column(self.path, name), self.numbers[name], "r", shape=(self.count,))
        except (OSError, ValueError):
            raise damaged(_column(self.path, name)) from None

    def rest(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The bytes after the arrays of each row."""
        return [record[self.dtype.itemsize :] for record in self._records(indices)]

    def _fixed(self, indices: np.ndarray) -> np.ndarray:
        size = self.dtype.itemsize
        if self._memory is None and size * self.count <= IN_MEMORY:
            records = (
                r for start in range(0, self.count, 4096) for r in self._records(range(start, min(start + 4096, self.count)))
            )
            self._memory = np.frombuffer(b"".join(r[:size] for r in records), self.dtype)
        if self._memory is not None:
            return self._memory[indices]
        return np.frombuffer(b"".join(record[:size] for record in self._records(indices)), self.dtype)

    def _records(self, indices: Iterable[int] | np.ndarray) -> list[bytes]:
        from array_record.python.array_record_module import ArrayRecordReader

        try:
            if self._reader is None:
                self._reader = ArrayRecordReader(str(self.path), "readahead_buffer_size:0,max_parallelism:0")
            return self._reader.read([int(i) for i in indices])
        except Exception as error:  # whatever a reader of damaged files may raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise damaged(self.path, reason[:200]) from None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_reader": None, "_memory": None}  # a worker process opens its own


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _column(path: Path, name: str) -> Path:
    return path.with_suffix(f".{name}")
