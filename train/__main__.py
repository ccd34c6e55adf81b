"""The front door: `python -m train VERB …`. Without a verb it does the main job, which is `python -m train quickstart`."""

import importlib
import io
import logging
import os
import signal
import sys
import time

VERBS = {
    "run": "train a recipe: pretraining, fine-tuning or from scratch",
    "evaluate": "the metrics of a run on a held-out split",
    "predict": "what a run says of new text, or of the rows of a file",
    "report": "write report.html of a run",
    "checkpoints": "what is saved of a run, and whether it is whole",
    "recipes": "the experiments that have a name",
    "data": "prepare a data set, or look at one",
    "shardings": "what lies where on a mesh, also on one that is not there, and what is whole and why",
    "bench": "compile time, step time, throughput and memory of a recipe",
    "quickstart": "the main job, and what no verb at all does: pretrain, fine-tune, compare",
}


def usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(["usage: python -m train [VERB …]", "", *lines, "", "python -m train VERB --help says more."])


def main(arguments: list[str]) -> int:
    """Runs a verb; returns the exit status: 2 for what the user can mend, with one line on stderr."""
    from data import cache
    from data.errors import DataError
    from train.errors import UserError, nearest

    verb, *rest = arguments or ["quickstart"]
    # What was compiled once is not compiled again, also by the next process.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.directory() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    try:
        if verb in ("-h", "--help"):
            print(usage())
            return 0
        if verb not in VERBS:
            raise UserError(f"there is no verb {verb}{nearest(verb, VERBS)}")
        return importlib.import_module(f"train.verbs.{verb}").main(rest)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that cannot be written
        if error.filename is None and error.strerror is None:
            raise
        return unwritten(error)
    except Exception as error:
        from train import cluster
        from train.cluster.join import MISSED
        from train.cluster.roll_call import IS_GONE

        if not cluster.is_lost(error):
            raise
        time.sleep(MISSED)  # the watch, which knows whom it has lost, ends this process meanwhile
        why = (str(error).splitlines() or [""])[0][:200]
        print(f"error: another process of the run {IS_GONE}; the runtime says: {why}", file=sys.stderr)
        return 1


def unwritten(error: OSError) -> int:
    """The status where something could not be written, which is said. Nobody minds who reads our output and has seen enough."""
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
    return 2


def flushed(status: int) -> int:
    """The status, once all output is written; another where all was well but that it cannot be."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where what is left goes at the end
        return status or unwritten(error)
    return status


def open_what_is_closed() -> None:
    """Standard streams that the caller has closed lead nowhere; otherwise the next file that is opened would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115, until the process ends


def is_heard(_record: logging.LogRecord) -> bool:
    """What data says while it is made, which may take minutes, is said once, whatever the number of processes."""
    from train import cluster

    return cluster.is_first()


def interrupted(number: int, _frame: object) -> None:
    """Ends the process at once, wherever it is: no library that is being imported can swallow it. What trains stops in its own
    way (`train.loop.interruptions`); everything else writes its files whole or not at all."""
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupted)
    open_what_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: what data holds may be no Unicode
    heard = logging.StreamHandler()
    heard.addFilter(is_heard)
    logging.getLogger("data").addHandler(heard)
    logging.getLogger("data").setLevel(logging.INFO)
    logging.getLogger("data").propagate = False  # TFDS gives the root a handler of its own
    try:
        status = main(sys.argv[1:])
    except SystemExit as end:  # of tyro, after --help
        status = int(end.code or 0)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    status = flushed(status)
    if "train.cluster.join" in sys.modules:
        sys.modules["train.cluster.join"].leave(status)
    sys.exit(status)
