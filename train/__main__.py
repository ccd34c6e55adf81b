"""The command line: `fmodels COMMAND …`, or `python -m train COMMAND …`. The default command is `quickstart`."""

import importlib
import io
import logging
import os
import signal
import sys
import time
from pathlib import Path

from train.allocator import keep_freed_memory

VERBS = {
    "run": "train a recipe: pretraining, fine-tuning, or from scratch",
    "evaluate": "compute the metrics of a run on a held-out split",
    "predict": "predict texts, or the rows of a file, with a run",
    "generate": "generate texts with a run",
    "report": "write report.html for a run",
    "checkpoints": "list and verify the checkpoints of a run",
    "recipes": "list the recipes",
    "data": "prepare or inspect a data set",
    "shardings": "show the sharding of every parameter on a real or simulated mesh",
    "bench": "measure compile time, step time, throughput and memory of a recipe",
    "quickstart": "default: pretrain, fine-tune, compare",
}


def usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(["usage: fmodels [COMMAND …]", "", *lines, "", "fmodels COMMAND --help shows the options of a command."])


def main(arguments: list[str]) -> int:
    """Run a command and return its exit status: 2, with one line on stderr, for errors that the user can fix."""
    from data import cache
    from data.errors import DataError
    from train import notes
    from train.errors import UserError, nearest

    notes.begin()
    verb, *rest = arguments or ["quickstart"]
    # Keep compiled programs for later processes.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.directory() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    try:
        if verb in ("-h", "--help"):
            print(usage())
            return 0
        if verb not in VERBS:
            raise UserError(f"unknown command {verb}{nearest(verb, VERBS)}")
        return importlib.import_module(f"train.verbs.{verb}").main(rest)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # for example a full disk, or a folder without write permission
        if error.filename is None and error.strerror is None:
            raise
        return report_write_error(error)
    except Exception as error:
        from train import cluster
        from train.cluster.join import MISSED
        from train.cluster.roll_call import IS_GONE

        if not cluster.is_lost(error):
            raise
        time.sleep(MISSED)  # normally, the watch ends this process meanwhile and reports the lost one
        reason = (str(error).splitlines() or [""])[0][:200]
        print(f"error: another process of the run {IS_GONE}; runtime error: {reason}", file=sys.stderr)
        return 1


def report_write_error(error: OSError) -> int:
    """Print a failed write and return the exit status. Print nothing if the reader of a pipe has closed it."""
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
    return 2


def flush_output(status: int) -> int:
    """Flush stdout and return `status`, or the status of the failed write if `status` is 0."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at interpreter exit
        return status or report_write_error(error)
    return status


def open_closed_streams() -> None:
    """Open closed standard streams as /dev/null. Otherwise, the next opened file would get their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115, until the process ends


def is_first(_record: logging.LogRecord) -> bool:
    """Filter that drops log records on all processes but the first."""
    from train import cluster

    return cluster.is_first()


def exit_on_interrupt(number: int, _frame: object) -> None:
    """Handle a signal by ending the process at once, so that no library can swallow it during its import. Training installs its
    own handler (`train.runs.signals.stoppable`); all other commands write each file atomically."""
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(128 + number)


def entry_point() -> int:
    """Run the command in sys.argv as a process: set up signals, streams and logging, and return the exit status."""
    signal.signal(signal.SIGINT, exit_on_interrupt)
    open_closed_streams()
    keep_freed_memory()
    project = str(Path(__file__).parents[1])
    if project not in sys.path:  # in an editable install, where a folder named data on sys.path would hide our package
        sys.path.append(project)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like stderr: data may hold lone surrogates
    handler = logging.StreamHandler()
    handler.addFilter(is_first)
    logging.getLogger("data").addHandler(handler)
    logging.getLogger("data").setLevel(logging.INFO)
    logging.getLogger("data").propagate = False  # TFDS adds a handler to the root logger
    try:
        status = main(sys.argv[1:])
    except SystemExit as end:  # from tyro, after --help
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    status = flush_output(status)
    if "train.cluster.join" in sys.modules:
        sys.modules["train.cluster.join"].leave(status)
    return status


if __name__ == "__main__":
    sys.exit(entry_point())
