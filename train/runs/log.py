"""The log of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from train.errors import UserError
from train.runs.rundir import write_atomically

FLUSH_EVERY = 30  # seconds, so that TensorBoard shows a running experiment


class MetricsLog:
    """Writes metrics.jsonl and TensorBoard events. Lines after `step` are dropped, since training writes them again."""

    def __init__(self, path: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter

        cut_metrics(path, step)
        self.folder, self.file = path, (path / "metrics.jsonl").open("a", encoding="utf-8")
        # Not tensorboardX's SummaryWriter: its thread dies on a full disk, and later writes then block forever.
        self.events, self.flushed = EventsWriter(str(path / "events")), time.monotonic()
        if step:
            self._event(step + 1, session_log={"status": "START"})  # TensorBoard drops its events from there on

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the metrics of a step. Raises OSError if a log cannot be written."""
        finite = {name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in values.items()}
        scalars = [{"tag": name, "simple_value": value} for name, value in values.items() if isinstance(value, int | float)]
        with self._named():
            self.file.write(json.dumps({"step": step, **finite}) + "\n")
            self.file.flush()
            self._event(step, summary={"value": scalars})
        if time.monotonic() > self.flushed + FLUSH_EVERY:
            self.flush()

    def _event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue], generated at import

        self.events.write_event(Event(wall_time=time.time(), step=step, **content))

    def flush(self) -> None:
        """Write buffered TensorBoard events to disk. Call before a checkpoint, so that a killed run loses no events before it.

        Raises OSError if they cannot be written.
        """
        with self._named():
            self.events.flush()
        self.flushed = time.monotonic()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{self.folder}: a log could not be written") from None

    def close(self) -> None:
        with contextlib.suppress(OSError):  # already reported by write or flush
            self.events.close()
        with contextlib.suppress(OSError):
            self.file.close()


def cut_metrics(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl after a step."""
    lines = [json.dumps(row) for row in read_metrics(path) if row["step"] <= step]
    write_atomically(path / "metrics.jsonl", "".join(line + "\n" for line in lines))


def read_lines(path: Path) -> list[str]:
    """Return the complete lines of a log. A last line without a newline was cut off by a crash and is ignored."""
    if not path.exists():
        return []
    text = path.read_text("utf-8", "replace")
    return text[: text.rfind("\n") + 1].splitlines()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl. Raises UserError for a damaged line."""
    file, rows = path / "metrics.jsonl", []
    for number, line in enumerate(read_lines(file), 1):
        try:
            rows.append(json.loads(line))
            assert isinstance(rows[-1]["step"], int)
            assert all(isinstance(value, int | float | None) for value in rows[-1].values())
        except (ValueError, TypeError, KeyError, AssertionError, RecursionError):
            raise UserError(f"{file}, line {number}: damaged; remove the line") from None
    return rows
