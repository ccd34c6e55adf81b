"""Dataset builders: those of TFDS, and ours for raw files that TFDS cannot prepare without TensorFlow.

Each of our builders is the class `Builder` in `data/builders/NAME.py`. Its dataset is `tfds:NAME`, so NAME must differ from the
names of TFDS. It reads manually downloaded files (`data prepare tfds:NAME --from FOLDER`) and lists them in
MANUAL_DOWNLOAD_INSTRUCTIONS. It avoids the parts of TFDS that call TensorFlow: Python's libraries open the archives, images stay
encoded, and audio is a numeric array.
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


def ours() -> list[str]:
    """Return the names of our builders, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def known() -> list[str]:
    """Return the names of all datasets that can be prepared, sorted."""
    import tensorflow_datasets as tfds

    # Older builders register when their package is imported. TFDS itself would stop at the first package with a missing library.
    for module in pkgutil.iter_modules(tfds.__path__):
        if module.ispkg and module.name not in ("core", "scripts", "testing"):
            with contextlib.suppress(ImportError):
                importlib.import_module(f"tensorflow_datasets.{module.name}")
    return sorted({*tfds.list_builders(with_community_datasets=False), *ours()})


def find(name: str) -> Any:
    """Return the builder class, or None if the name is unknown."""
    import tensorflow_datasets as tfds

    if name in ours():
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
