"""What is slow to read from its source and never changes is kept in the user's cache."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def directory() -> Path:
    """$FMODELS_CACHE, or fmodels in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FMODELS_CACHE") or Path(base) / "fmodels")


def cached(name: str, make: Callable[[], Any]) -> Any:
    """The JSON value kept under `name`, which says all that it depends on; made and kept if there is none.

    The file appears whole or not at all. Where the cache cannot be written the value is made each time.
    """
    path = directory() / f"{name}.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        value = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            json.dump(value, file)
        os.replace(file.name, path)
    except OSError:
        pass
    return value
