"""Examples on disk: an ArrayRecord file, written as a stream and read by index.

A record holds the fixed-shape arrays of a row as raw bytes, followed by an optional payload of variable length (a text, an
encoded image). Each scalar column, such as the labels, has its own file, because it is read as a whole.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.cache import damaged, read_json
from data.dataset import Batch, Spec

IN_MEMORY = 1 << 28  # bytes; smaller fixed-shape arrays are read into memory


class Writer:
    """Writer of a store at `path`. Use as a context manager; the store is valid only after a normal exit."""

    def __init__(self, path: Path, columns: Mapping[str, Spec]):
        from array_record.python.array_record_module import ArrayRecordWriter

        self.path, self.columns, self.count = path, columns, 0
        self.dtype = np.dtype([(name, s.dtype, s.shape) for name, s in columns.items() if s.shape])
        self.scalars = {name: _column_path(path, name).open("wb") for name, s in columns.items() if not s.shape}
        self.writer = ArrayRecordWriter(str(path), "group_size:1")

    def append(self, row: Mapping[str, Any], payload: bytes = b"") -> bytes:
        """Write a row and return its bytes. Raises OSError if writing fails, which `close` may do later."""
        fixed = np.zeros((), self.dtype)
        for name in self.dtype.names or ():
            fixed[name] = row[name]
            assert np.array_equal(fixed[name], row[name]), f"{name} does not fit into {self.columns[name].dtype}"
        record = fixed.tobytes() + payload
        self.writer.write(record)
        if not self.writer.ok():
            self.close()
        scalars = {name: np.asarray(row[name], self.columns[name].dtype).tobytes() for name in self.scalars}
        for name, file in self.scalars.items():
            file.write(scalars[name])
        self.count += 1
        return b"".join([*scalars.values(), record])

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, *_) -> None:
        self.close(whole=kind is None)

    def close(self, whole: bool = True) -> None:
        errors: list[Exception] = []
        for file in (self.writer, *self.scalars.values()):
            try:
                file.close()
            except (RuntimeError, OSError) as error:
                errors.append(error)
        if errors and whole:
            message = str(errors[0])  # ArrayRecord: `write() failed: No space left on device; writing …`
            reason = getattr(errors[0], "strerror", None) or message.partition("failed: ")[2].partition(";")[0] or message
            raise OSError(None, reason, str(self.path))
        if whole:
            metadata = {"count": self.count, "columns": {n: [np.dtype(s.dtype).str, *s.shape] for n, s in self.columns.items()}}
            _metadata_path(self.path).write_text(json.dumps(metadata), "utf-8")


class Stored:
    """The rows of a store, read by index.

    `wanted` selects columns and their dtypes (None: all columns, unchanged). Small stores are read into memory.
    """

    def __init__(self, path: Path, wanted: Mapping[str, Spec] | None = None):
        metadata = read_json(_metadata_path(path))
        self.path, self.count = path, metadata["count"]
        columns = {name: (kind, tuple(shape)) for name, (kind, *shape) in metadata["columns"].items()}
        self.dtype = np.dtype([(name, kind, shape) for name, (kind, shape) in columns.items() if shape])
        self.scalars = {name: np.dtype(kind) for name, (kind, shape) in columns.items() if not shape}
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
            name: (self.column(name)[indices] if name in self.scalars else rows[name]).astype(kind)
            for name, kind in self.wanted.items()
        }

    def column(self, name: str) -> np.ndarray:
        """Return a scalar column as a memory-mapped array, [rows]."""
        if not self.count:
            return np.empty(0, self.scalars[name])
        try:
            return np.memmap(_column_path(self.path, name), self.scalars[name], "r", shape=(self.count,))
        except (OSError, ValueError):
            raise damaged(_column_path(self.path, name)) from None

    def payloads(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Return the payload of each row."""
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
        except Exception as error:  # the reader raises various types for damaged files
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise damaged(self.path, reason[:200]) from None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_reader": None, "_memory": None}  # each worker process opens its own


def _metadata_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _column_path(path: Path, name: str) -> Path:
    return path.with_suffix(f".{name}")
