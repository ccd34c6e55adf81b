"""Hugging Face data sets: `hf:OWNER/NAME`, `hf:OWNER/NAME/CONFIG`, `hf:NAME/CONFIG` of the Hub, or `hf:FOLDER` of their files.

They are read as a stream, by the library `datasets`, which the extra `fmodels[hf]` installs. A row has the features of the data
set: labels by their names, images and sound as the encoded bytes they are stored as, lists of numbers as numpy arrays. A label
that is missing, or -1, is left out. The features of a folder of parquet files are those that they declare in their metadata.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.sources import Row, Rows, choose, near, usual


@dataclass(frozen=True)
class HuggingFace:
    name: str

    def stamp(self) -> dict[str, str]:
        """The version of what is on the Hub, or the state of each file of a folder. Raises DataError as `splits` does."""
        builder = self._builder()
        if not self._is_folder:
            return {f"hf:{self.name}": f"{builder.info.version} {builder.hash}"}
        files = sorted({str(file) for files in builder.config.data_files.values() for file in files})
        states = ((file, os.stat(file)) for file in files)
        return {os.path.relpath(file, self._folder): f"{state.st_size} bytes, {state.st_mtime_ns}" for file, state in states}

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Without `wanted` those that have our names, or a usual one (`dev`); where there is `train` and nothing else, its last
        tenth is `validation`.

        Raises DataError where `datasets` is not installed, for a data set that is not there or cannot be reached, for a split
        that it does not have, or a choice that is not plain.
        """
        streams = self._builder().as_streaming_dataset()
        # Not decoded: an image takes less room so. Of JSON and CSV the features are not known, and nothing is to be decoded.
        encoded = {str(split): stream.decode(False) if stream.features else stream for split, stream in streams.items()}
        own = {split: _Rows(f"hf:{self.name}", stream) for split, stream in encoded.items()}
        return choose(own, wanted or usual(own, f"hf:{self.name}"), f"hf:{self.name}")

    @property
    def _folder(self) -> Path:
        return Path(self.name).expanduser()

    @property
    def _is_folder(self) -> bool:
        """A folder is meant where there is one, and where no name of the Hub begins like that."""
        return self._folder.is_dir() or self.name[0] in "./~"

    def _builder(self) -> Any:
        try:
            import datasets  # pyright: ignore[reportMissingImports]
            from datasets.exceptions import DatasetNotFoundError, DatasetsError  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DataError(f"data.source hf:{self.name}: datasets is not installed; pip install 'fmodels[hf]'") from None
        if self._is_folder and not self._folder.is_dir():
            beside = [str(path) for path in self._folder.parent.glob("*") if path.is_dir()]
            raise DataError(f"data.source hf:{self.name}: there is no such folder{near(str(self._folder), beside)}")
        what = ""
        for name, config in [(str(self._folder), None)] if self._is_folder else _readings(self.name):
            try:
                return datasets.load_dataset_builder(name, config)
            except ConnectionError:
                what = "it is not on this machine, and the Hub cannot be reached"
                break
            except DatasetNotFoundError as error:
                what = what or _one_line(error)
            except (OSError, ValueError, DatasetsError) as error:
                what = _one_line(error)
                break
        raise DataError(f"data.source hf:{self.name}: {what}")


def source(argument: str) -> HuggingFace:
    """Raises DataError where there is no name."""
    if not argument:
        raise DataError("data.source hf: the name is missing: hf:OWNER/NAME, hf:OWNER/NAME/CONFIG or hf:FOLDER")
    return HuggingFace(argument)


def _readings(name: str) -> list[tuple[str, str | None]]:
    """(name, config) that is meant, the likelier first: `a/b` is the data set b of a, or, of the oldest, the config b of a."""
    parts = name.split("/")
    if len(parts) == 2:
        return [(name, None), (parts[0], parts[1])]
    return [("/".join(parts[:2]), "/".join(parts[2:]) or None)]


@dataclass(frozen=True)
class _Rows:
    name: str
    stream: Any
    "datasets.IterableDataset"

    def __iter__(self) -> Iterator[Row]:
        """Raises DataError where a file cannot be read, or the Hub no longer be reached."""
        from datasets.exceptions import DatasetsError  # pyright: ignore[reportMissingImports]

        try:
            for row in self.stream:
                features = self.stream.features or {}
                found = {name: plain(features.get(name), value) for name, value in row.items()}
                yield {name: value for name, value in found.items() if value is not None}
        except (OSError, ValueError, DatasetsError) as error:
            raise DataError(f"data.source {self.name}: it cannot be read on: {_one_line(error)}") from None


def plain(feature: Any, value: Any) -> Any:
    """The value with names for labels, bytes for images and sound, and arrays for numbers, however deep they lie."""
    import datasets  # pyright: ignore[reportMissingImports]
    import numpy as np

    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return None if value == -1 else feature.int2str(value)
    if type(feature).__name__ == "Json":  # a column of several types
        return json.loads(value)
    if isinstance(feature, datasets.Image | datasets.Audio):
        return value["bytes"] if value["bytes"] is not None else _content(value["path"])
    if isinstance(feature, datasets.List | datasets.LargeList):
        if isinstance(feature.feature, datasets.Value) and feature.feature.dtype not in ("string", "large_string", "binary"):
            return np.asarray(value)
        return [plain(feature.feature, one) for one in value]
    if isinstance(feature, Mapping):
        return {name: plain(inner, value[name]) for name, inner in feature.items()}
    return np.asarray(value) if type(feature).__name__.startswith("Array") else value  # Array2D to Array5D


def _content(path: str) -> bytes:
    import fsspec  # pyright: ignore[reportMissingImports]

    with fsspec.open(path, "rb") as file:
        return file.read()  # type: ignore


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
