"""Dataset builders for TFDS that work without TensorFlow, one per file.

The class `Builder` in `data/builders/NAME.py` prepares the dataset `tfds:NAME`; TFDS must not have a dataset of this name. A
builder reads manually downloaded files (`data prepare tfds:NAME --from FOLDER`) and lists them in MANUAL_DOWNLOAD_INSTRUCTIONS.
It avoids the parts of TFDS that call TensorFlow: Python's libraries open the archives, images stay encoded, and audio is a
numeric array.
"""

import contextlib
import functools
import importlib
import pkgutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import DataError


def own() -> list[str]:
    """Return the names of the builders in this package, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def known() -> list[str]:
    """Return the names of all datasets, of TFDS and of this package, sorted."""
    import tensorflow_datasets as tfds

    # Older builders register on import. TFDS itself would stop at the first package with a missing library.
    for module in pkgutil.iter_modules(tfds.__path__):
        if module.ispkg and module.name not in ("core", "scripts", "testing"):
            with contextlib.suppress(ImportError):
                importlib.import_module(f"tensorflow_datasets.{module.name}")
    return sorted({*tfds.list_builders(with_community_datasets=False), *own()})


def find(name: str) -> Any:
    """Return the builder class of a dataset, or None if the name is unknown."""
    import tensorflow_datasets as tfds

    if name in own():
        return importlib.import_module(f"data.builders.{name}").Builder
    return tfds.builder_cls(name) if name in known() else None


def raw(folder: Path, name: str) -> Path:
    """Return the path of a manually downloaded file in the folder or a direct subfolder. Raises DataError if it is missing."""
    for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
        if path.is_file():
            return path
    raise DataError(f"{folder}: no {name} in this folder or its subfolders; give its folder with --from FOLDER")


def unpacked(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file of a tar archive, in order (seeking in a compressed one would be slow)."""
    with tarfile.open(archive, "r|*") as members:
        for member in members:
            if file := members.extractfile(member):
                yield member.name, file.read()
