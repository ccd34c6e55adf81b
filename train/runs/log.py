"""The log of a run: metrics.jsonl, and the same figures as TensorBoard events."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from train.errors import UserError
from train.runs.rundir import write_atomically

FLUSH_EVERY = 30  # seconds, for who looks on in TensorBoard


class MetricsLog:
    """metrics.jsonl and TensorBoard events. Continuing at a step drops the lines after it, which will be written again."""

    def __init__(self, path: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter

        cut_metrics(path, step)
        self.folder, self.file = path, (path / "metrics.jsonl").open("a", encoding="utf-8")
        # Not by a thread, as tensorboardX' SummaryWriter does: on a full disk it ends, and who has more to write waits for ever.
        self.events, self.flushed = EventsWriter(str(path / "events")), time.monotonic()
        if step:
            self._event(step + 1, session_log={"status": "START"})  # TensorBoard drops what it has from there on

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Raises OSError if a log cannot be written."""
        finite = {name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in values.items()}
        scalars = [{"tag": name, "simple_value": value} for name, value in values.items() if isinstance(value, int | float)]
        with self._named():
            self.file.write(json.dumps({"step": step, **finite}) + "\n")
            self.file.flush()
            self._event(step, summary={"value": scalars})
        if time.monotonic() > self.flushed + FLUSH_EVERY:
            self.flush()

    def _event(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue], it is made when it is imported

        self.events.write_event(Event(wall_time=time.time(), step=step, **what))

    def flush(self) -> None:
        """All is on disk, TensorBoard's events, too, as it is to be before a checkpoint, from which a run that is killed goes on.
        Raises OSError if it cannot be."""
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
        with contextlib.suppress(OSError):  # of what could not be written, which was said
            self.events.close()
        with contextlib.suppress(OSError):
            self.file.close()


def cut_metrics(path: Path, step: int) -> None:
    """Drops the lines of a log after a step."""
    kept = [json.dumps(row) for row in read_metrics(path) if row["step"] <= step]
    write_atomically(path / "metrics.jsonl", "".join(line + "\n" for line in kept))


def read_lines(path: Path) -> list[str]:
    """The whole lines of a log; one that was cut off in writing is not among them."""
    if not path.exists():
        return []
    text = path.read_text("utf-8", "replace")
    return text[: text.rfind("\n") + 1].splitlines()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Raises UserError for a line that is not one of a log."""
    file, rows = path / "metrics.jsonl", []
    for number, line in enumerate(read_lines(file), 1):
        try:
            rows.append(json.loads(line))
            assert isinstance(rows[-1]["step"], int)
            assert all(isinstance(value, int | float | None) for value in rows[-1].values())
        except (ValueError, TypeError, KeyError, AssertionError, RecursionError):
            raise UserError(f"{file}, line {number}: damaged; remove the line") from None
    return rows
