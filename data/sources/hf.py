"""Hugging Face datasets: `hf:OWNER/NAME`, `hf:OWNER/NAME/CONFIG`, `hf:NAME/CONFIG` from the Hub, or `hf:FOLDER` of local files.

The library `datasets` (extra `fmodels[hf]`) streams them. Rows have the features of the dataset: labels as names, images and
audio as encoded bytes, lists of numbers as NumPy arrays. Missing labels and labels of -1 are omitted. The features of Parquet
files come from their metadata. Fields of CSV files are strings. In a folder of images, `datasets` uses the innermost folder as
the label; folders for which `files:` would use another one are refused.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data import held_out
from data.errors import DataError
from data.sources import Row, Rows, choose, default_splits, file_state, near
from data.sources.files import Files


@dataclass(frozen=True)
class HuggingFace:
    name: str

    def stamp(self) -> dict[str, str]:
        """Return the version of a Hub dataset, or the state of each file of a folder. Raises DataError as `splits` does."""
        builder = self._builder()
        if not self._is_folder:
            return {f"hf:{self.name}": f"{builder.info.version} {builder.hash}"}
        files = sorted({str(file) for files in builder.config.data_files.values() for file in files})
        return {os.path.relpath(file, self._folder): file_state(os.stat(file)) for file in files}

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Return the wanted splits; see `default_splits` and `held_out` if `wanted` is empty.

        Raises DataError if `datasets` is not installed, the dataset is missing or cannot be reached, a split is unknown, or the
        default splits cannot be inferred.
        """
        builder = self._builder()
        if hasattr(builder.config, "drop_labels") and self._is_folder:  # a folder of images or audio
            self._check_classes()
        streams = builder.as_streaming_dataset()
        # Images stay encoded to save memory. Streams of JSON and CSV have no features and nothing to decode.
        encoded = {str(split): stream.decode(False) if stream.features else stream for split, stream in streams.items()}
        own = {split: _Rows(f"hf:{self.name}", stream) for split, stream in encoded.items()}
        if not wanted and list(own) == ["train"]:
            return held_out.split(own["train"], names, f"hf:{self.name}")
        return choose(own, wanted or default_splits(own, f"hf:{self.name}"), f"hf:{self.name}")

    @property
    def _folder(self) -> Path:
        return Path(self.name).expanduser()

    @property
    def _is_folder(self) -> bool:
        """Whether the name is a folder: an existing one, or one with a first character that the Hub does not allow."""
        return self._folder.is_dir() or self.name[0] in "./~"

    def _check_classes(self) -> None:
        """Raises DataError if the innermost folder of a file is not its class in a `files:` source."""
        for name, label in Files(str(self._folder)).rows({}).classes.items():
            if (innermost := PurePosixPath(name).parent.name) != label:
                raise DataError(
                    f"data.source hf:{self.name}: the label of {name} would be {innermost!r}, its innermost folder; "
                    f"use files:{self.name} for the label {label!r}"
                )

    def _builder(self) -> Any:
        try:
            import datasets  # pyright: ignore[reportMissingImports]
            from datasets.download.streaming_download_manager import xpandas_read_csv  # pyright: ignore[reportMissingImports]
            from datasets.exceptions import DatasetNotFoundError, DatasetsError  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DataError(f"data.source hf:{self.name}: datasets is not installed; pip install 'fmodels[hf]'") from None
        if self._is_folder and not self._folder.is_dir():
            siblings = [str(path) for path in self._folder.parent.glob("*") if path.is_dir()]
            raise DataError(f"data.source hf:{self.name}: no such folder{near(str(self._folder), siblings)}")
        problem = ""
        for name, config in [(str(self._folder), None)] if self._is_folder else _candidates(self.name):
            try:
                builder: Any = datasets.load_dataset_builder(name, config)
                if hasattr(builder.config, "keep_default_na"):  # CSV: only an empty field is missing; NA, None and null are text
                    builder.config.keep_default_na = False
                    file = next(iter(builder.config.data_files.values()))[0]
                    columns = xpandas_read_csv(file, nrows=0, sep=builder.config.sep).columns
                    builder.config.features = datasets.Features(dict.fromkeys(columns, datasets.Value("string")))  # not 1 for 01
                return builder
            except ConnectionError:
                problem = "not in the local cache, and the Hub cannot be reached"
                break
            except DatasetNotFoundError as error:
                problem = problem or _one_line(error)
            except (OSError, ValueError, DatasetsError) as error:
                problem = _one_line(error)
                break
        raise DataError(f"data.source hf:{self.name}: {problem}")


def source(argument: str) -> HuggingFace:
    """Raises DataError if the name is empty."""
    if not argument:
        raise DataError("data.source hf: the name is missing; use hf:OWNER/NAME, hf:OWNER/NAME/CONFIG or hf:FOLDER")
    return HuggingFace(argument)


def _candidates(name: str) -> list[tuple[str, str | None]]:
    """Return possible (name, config) pairs, most likely first: `a/b` is dataset b of owner a, or config b of an old dataset a."""
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
        """Raises DataError if a file cannot be read or the Hub can no longer be reached."""
        from datasets.exceptions import DatasetsError  # pyright: ignore[reportMissingImports]

        try:
            for row in self.stream:
                features = self.stream.features or {}
                found = {name: plain(features.get(name), value) for name, value in row.items()}
                yield {name: value for name, value in found.items() if value is not None}
        except (OSError, ValueError, DatasetsError) as error:
            raise DataError(f"data.source {self.name}: reading failed: {_one_line(error)}") from None


def plain(feature: Any, value: Any) -> Any:
    """Convert labels to names, images and audio to bytes, and numbers to arrays, at any depth."""
    import datasets  # pyright: ignore[reportMissingImports]

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
            return _array(value, feature.feature.dtype)
        return [plain(feature.feature, one) for one in value]
    if isinstance(feature, Mapping):
        return {name: plain(inner, value[name]) for name, inner in feature.items()}
    return _array(value, feature.dtype) if type(feature).__name__.startswith("Array") else value  # Array2D to Array5D


def _array(value: list, dtype: str) -> Any:
    import numpy as np

    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError):  # a type that NumPy lacks, such as a date, or missing values
        return np.asarray(value)


def _content(path: str) -> bytes:
    import fsspec  # pyright: ignore[reportMissingImports]

    with fsspec.open(path, "rb") as file:
        return file.read()  # type: ignore


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
