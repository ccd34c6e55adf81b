"""What is slow to make from its source and never changes is kept in the user's cache: made once, whole or not at all."""

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

VERSION = 5  # of all that is made: raised when the making changes, so that nothing old is taken for new


def directory() -> Path:
    """$FMODELS_CACHE, or fmodels in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FMODELS_CACHE") or Path(base) / "fmodels")


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, which says all that it depends on; `make` fills it if there is none.

    It appears under its name when it is whole. Of several processes one makes it, and the others wait; what a killed one left
    behind is removed by the next. On a file system without locks each makes its own, and the first stays. Raises DataError where
    it cannot be written.
    """
    folder = directory() / f"{name}-{VERSION}"
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_name(f"{folder.name}.lock")) as alone:
            if alone:
                for left in folder.parent.glob(f"{folder.name}.{platform.node()}-*.partial"):  # locks may be each machine's own
                    shutil.rmtree(left, ignore_errors=True)
            if not folder.exists():
                partial = folder.with_name(f"{folder.name}.{platform.node()}-{os.getpid()}.partial")
                partial.mkdir()
                log.info("making %s, which the cache keeps", folder)
                try:
                    make(partial)
                    _appear(partial, folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        where = Path(error.filename or folder)
        if not where.is_relative_to(directory()):  # something that was to be read
            raise DataError(f"{where}: {error.strerror}") from None
        raise DataError(f"the cache cannot be written: {where}: {error.strerror}; $FMODELS_CACHE says where it is") from None
    return folder


def read_json(file: Path) -> Any:
    """Of a folder that is kept. Raises DataError if it is damaged."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        raise damaged(file) from None


def damaged(file: Path, reason: str = "it cannot be read") -> DataError:
    return DataError(f"{file} is damaged ({reason}); remove {file.parent}, and it is made anew")


def _appear(partial: Path, folder: Path) -> None:
    try:
        os.rename(partial, folder)
    except OSError:
        if not folder.exists():  # else another process was first, and made the same
            raise


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Holds the lock of that name, which falls with the process that holds it; False where the file system has none."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        yield locked
