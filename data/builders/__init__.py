"""Who knows how to prepare a data set: TFDS's builders, and ours, for raw files that TFDS cannot prepare without TensorFlow.

One of ours is the class `Builder` of `data/builders/NAME.py`, and its data set is `tfds:NAME`, as if it were TFDS's; so it has a
name that none of TFDS's has. It reads files that someone has fetched by hand (`data prepare tfds:NAME --from FOLDER`), says in
MANUAL_DOWNLOAD_INSTRUCTIONS which, and uses nothing of TFDS that calls TensorFlow: archives are opened by Python, images are
handed on as the bytes they are, and sound is an array of numbers.
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
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def known() -> list[str]:
    """The names of all that can be prepared."""
    import tensorflow_datasets as tfds

    # Builders of the older kind are known once their package is imported. TFDS stops at the first package that lacks a library.
    for module in pkgutil.iter_modules(tfds.__path__):
        if module.ispkg and module.name not in ("core", "scripts", "testing"):
            with contextlib.suppress(ImportError):
                importlib.import_module(f"tensorflow_datasets.{module.name}")
    return sorted({*tfds.list_builders(with_community_datasets=False), *ours()})


def find(name: str) -> Any:
    """The builder's class; None if there is none of that name."""
    import tensorflow_datasets as tfds

    if name in ours():
        return importlib.import_module(f"data.builders.{name}").Builder
    return tfds.builder_cls(name) if name in known() else None


def raw(folder: Path, name: str) -> Path:
    """The file that was fetched by hand, in the folder or in one of those in it. Raises DataError where it is missing."""
    for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
        if path.is_file():
            return path
    raise DataError(f"{folder}: there is no {name} in it, nor in a folder of it; --from FOLDER says where it is")


def unpacked(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a tar, in order: to jump about in a packed one is to unpack it again."""
    with tarfile.open(archive, "r|*") as members:
        for member in members:
            if file := members.extractfile(member):
                yield member.name, file.read()
