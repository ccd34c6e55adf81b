"""Prepared TensorFlow Datasets: `tfds:NAME`, `tfds:NAME/CONFIG`, `tfds:NAME/CONFIG:VERSION`.

`fmodels data prepare tfds:NAME` writes them as ArrayRecord files to $TFDS_DATA_DIR (default: ~/tensorflow_datasets).
Reading them does not need TensorFlow. The default version is the newest prepared one. A version may have wildcards: `3.*.*`.

Rows have the features of the dataset: labels as names, text as str, images as encoded PNG or JPEG, and arrays as NumPy arrays.
Labels of -1, as in GLUE's test splits, are omitted.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import combinations, product
from pathlib import Path
from typing import Any

from data import builders, held_out
from data.errors import DataError
from data.sources import Bad, Row, Rows, check_slice, default_splits, file_state, near, overlapping

CHUNK = 128  # records per read; more is hardly faster, and a record may be a whole video


@dataclass(frozen=True)
class Tfds:
    name: str

    def stamp(self) -> dict[str, str]:
        """Return the dataset's full name and the state of its files. Raises DataError if it is not prepared or lacks a file."""
        builder = self._builder()
        state = {f"tfds:{self.name}": builder.info.full_name}
        for split, info in builder.info.splits.items():
            files = [_file_state(Path(path)) for path in info.filepaths]
            state[split] = f"{info.num_examples} rows in {', '.join(files)}"
        return state

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Rows]:
        """Return the wanted splits, in TFDS's syntax: `train[:10%]`, `train[1000:]+test`.

        See `default_splits` and `held_out` if `wanted` is empty.

        Raises DataError if the dataset is not prepared, a split is unknown, splits overlap, or the default cannot be inferred.
        """
        builder = self._builder()
        if not wanted and list(builder.info.splits) == ["train"]:
            return held_out.split(self._rows(builder, "train"), names, f"tfds:{self.name}")
        wanted = wanted or default_splits(builder.info.splits, f"tfds:{self.name}")
        found = {split: self._rows(builder, expression) for split, expression in wanted.items()}
        for one, other in combinations(found, 2):
            if found[one].overlaps(found[other]):
                raise overlapping(wanted, one, other)
        return dict(found)

    def _rows(self, builder: Any, expression: str) -> "_Rows":
        available = builder.info.splits
        for term in expression.split("+"):
            check_slice(term)
            split = term.partition("[")[0].strip()
            if split not in (*available, "all"):
                raise DataError(
                    f"data.source tfds:{self.name}: no split {split!r}{near(split, available)}; available: {', '.join(available)}"
                )
        try:
            files = available[expression.replace(" ", "")].file_instructions
        except (ValueError, AssertionError) as error:
            problem = str(error).splitlines()[0]
            raise DataError(f"data.splits: {expression!r}: {problem}; use NAME, NAME[:1000] or NAME[10%:20%]") from None
        return _Rows(builder.info.features, tuple(files))

    def _builder(self) -> Any:
        """Return a TFDS builder for the folder. Raises DataError if it cannot be read."""
        import tensorflow_datasets as tfds

        folder = self.folder()
        try:
            return tfds.builder_from_directory(folder, file_format="array_record")
        except Exception as error:  # damaged metadata raises many types of error
            raise DataError(
                f"{folder}: cannot read a dataset of ArrayRecord files: {_first_line(error)}; "
                f"remove the folder and run fmodels data prepare tfds:{self.name}"
            ) from None

    def folder(self) -> Path:
        """Return the folder of the newest matching version. Raises DataError if none is prepared."""
        name, config, version = parse(self.name)
        available = prepared(name)
        if not config and "" not in available:
            config = _default_config(name)
        if config not in available:
            raise DataError(f"data.source tfds:{self.name}: {_explain_missing(name, config, available)}")
        for number, folder in reversed(available[config].items()):
            if fnmatch(number, version or "*"):
                return folder
        raise DataError(
            f"data.source tfds:{self.name}: version {version} is not prepared{near(version, available[config])}; "
            f"prepared versions: {', '.join(available[config])}"
        )


def source(argument: str) -> Tfds:
    """Raises DataError for an invalid dataset name."""
    parse(argument)
    return Tfds(argument)


def parse(name: str) -> tuple[str, str, str]:
    """Return name, config and version; the last two are empty if not given. Raises DataError for an invalid name."""
    match = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::([\d*]+\.[\d*]+\.[\d*]+))?", name)
    if match is None:
        raise DataError(f"data.source tfds:{name}: invalid name; use tfds:NAME, tfds:NAME/CONFIG or tfds:NAME/CONFIG:1.0.0")
    name, config, version = match.groups(default="")
    return name, config, version


def data_dir() -> Path:
    """Return the folder of all prepared datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared(name: str) -> dict[str, dict[str, Path]]:
    """Return {config: {version: folder}} of a dataset, oldest version first. The config is "" if the dataset has none."""
    found: dict[str, dict[str, Path]] = {}
    folders = [path.parent for pattern in ("*/features.json", "*/*/features.json") for path in (data_dir() / name).glob(pattern)]
    numbered = [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]  # others are incomplete
    for folder in sorted(numbered, key=lambda folder: (folder.parent, [int(part) for part in folder.name.split(".")])):
        config = "" if folder.parent == data_dir() / name else folder.parent.name
        found.setdefault(config, {})[folder.name] = folder
    return found


def _default_config(name: str) -> str:
    """Return TFDS's default config, or "" if its metadata does not name one."""
    try:
        return json.loads((data_dir() / name / ".config" / "metadata.json").read_text("utf-8"))["default_config_name"]
    except (OSError, ValueError, KeyError):
        return ""


def _explain_missing(name: str, config: str, available: Iterable[str]) -> str:
    """Return why a dataset or config is not prepared, and what to do. `available` lists its prepared configs."""
    wanted = f"{name}/{config}" if config else name
    builder = builders.find(name)
    configs = {config.name for config in builder.BUILDER_CONFIGS} if builder else set()
    if builder and (config in configs or not config):
        problem = f"not prepared in {data_dir()}; run fmodels data prepare tfds:{wanted}"
    elif builder or available:
        problem = f"{name} has no config {config!r}{near(config, [*configs, *available])}" if config else f"{name} needs a config"
    else:
        all_prepared = sorted(path.name for path in data_dir().glob("*") if prepared(path.name))
        suggestion = near(name, [*all_prepared, *builders.known()])
        return f"unknown dataset {name!r}{suggestion}; prepared in {data_dir()}: {', '.join(all_prepared) or 'none'}"
    return f"{problem}; prepared configs: {', '.join(f'{name}/{config}' for config in available)}" if any(available) else problem


@dataclass(frozen=True)
class _Rows:
    features: Any
    files: tuple[Any, ...]
    "TFDS's FileInstructions: file names and ranges of records"

    def __len__(self) -> int:
        return sum(file.take for file in self.files)

    def overlaps(self, other: "_Rows") -> bool:
        """Return whether the two have records in common."""
        spans = [[(file.filename, file.skip, file.skip + file.take) for file in rows.files] for rows in (self, other)]
        return any(a[0] == b[0] and max(a[1], b[1]) < min(a[2], b[2]) for a, b in product(*spans))

    def __iter__(self) -> Iterator[Row | Bad]:
        """Raises DataError with the name of a file that cannot be read."""
        import numpy as np
        import tensorflow_datasets as tfds
        from array_record.python.array_record_data_source import ArrayRecordDataSource
        from google.protobuf.message import DecodeError

        # Images stay encoded to save memory, except those of floats: only TFDS can decode them, since it stores their bits as
        # colours.
        images = [name for name, feature in self.features.items() if isinstance(feature, tfds.features.Image)]
        decoders = {name: tfds.decode.SkipDecoding() for name in images if self.features[name].np_dtype != np.float32}
        for file in self.files:
            path = Path(file.filename)
            try:
                with ArrayRecordDataSource([file]) as records:
                    for first in range(0, len(records), CHUNK):
                        numbers = range(first, min(first + CHUNK, len(records)))
                        for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
                            row = self.features.deserialize_example_np(record, decoders=decoders)
                            yield self._plain(row, f"{path.name}, record {file.skip + number}")
            except (RuntimeError, ValueError, IndexError, DecodeError) as error:
                raise DataError(
                    f"{path}: the file is missing, truncated or damaged: {_first_line(error)}; prepare the dataset again"
                ) from None

    def _plain(self, row: Mapping[str, Any], where: str) -> Row | Bad:
        found = {}
        for name, value in row.items():
            try:
                found[name] = plain(self.features[name], value)
            except UnicodeDecodeError as error:
                return Bad(where, f"{name}: byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8")
        return {name: value for name, value in found.items() if value is not None}


def plain(feature: Any, value: Any) -> Any:
    """Convert labels to names and text to str, at any depth. Return None for a missing label (-1)."""
    import numpy as np
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel):
        return None if value == -1 else feature.int2str(value)
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):  # TFDS stores a sequence of dicts as a dict of sequences
            return {name: plain(tfds.features.Sequence(inner[name]), values) for name, values in value.items()}
        if isinstance(inner, tfds.features.ClassLabel | tfds.features.Sequence) or inner.np_dtype == np.object_:
            return [plain(inner, one) for one in value]
        return value
    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: plain(feature[name], inner) for name, inner in value.items()}
    if isinstance(feature, tfds.features.Tensor) and isinstance(value, bytes):
        return value.decode()
    return value


def _file_state(path: Path) -> str:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; prepare the dataset again") from None
    return f"{path.name} ({file_state(state)})"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).strip()
