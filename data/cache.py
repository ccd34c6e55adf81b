"""A disk cache for derived data. Entries are built once, appear atomically and never change."""

import fcntl
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import DataError

log = logging.getLogger(__name__)

VERSION = 7  # part of every folder name; increment when the contents change, to invalidate old entries


def directory() -> Path:
    """Return the cache directory: $FMODELS_CACHE, or `fmodels` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FMODELS_CACHE") or Path(base) / "fmodels")


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cache folder `name`. If it does not exist, call `make(folder)` to fill it.

    `name` must include a hash of all inputs. The complete folder is renamed into place. One process builds it while the others
    wait, and removes leftovers of killed processes. On a file system without locks, every process builds its own copy, and the
    first complete one is used. Raises DataError if the cache cannot be written.
    """
    folder = directory() / f"{name}-{VERSION}"
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(f"{folder.name}.lock")) as locked:
            if locked:
                for abandoned in folder.parent.glob(f"{folder.name}.{platform.node()}-*.partial"):  # locks may be per machine
                    shutil.rmtree(abandoned, ignore_errors=True)
            if not folder.exists():
                partial = folder.with_name(f"{folder.name}.{platform.node()}-{os.getpid()}.partial")
                partial.mkdir()
                log.info("building %s (cached for later runs)", folder)
                try:
                    make(partial)
                    _publish(partial, folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        where = Path(error.filename or folder)
        if not where.is_relative_to(directory()):  # a source that `make` reads
            raise DataError(f"{where}: {error.strerror}") from None
        raise DataError(f"cannot write the cache: {where}: {error.strerror}; set $FMODELS_CACHE to use another folder") from None
    return folder


def read_json(file: Path) -> Any:
    """Read a JSON file of a cache folder. Raises DataError if it is damaged."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        raise damaged(file) from None


def damaged(file: Path, reason: str = "it cannot be read") -> DataError:
    return DataError(f"{file} is damaged ({reason}); remove {file.parent} to rebuild it")


def _publish(partial: Path, folder: Path) -> None:
    try:
        os.rename(partial, folder)
    except OSError:
        if not folder.exists():  # otherwise another process built the same folder first
            raise


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Lock the file; the system releases the lock if the process dies. Yields False if the file system has no locks."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        yield locked
