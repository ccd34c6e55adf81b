"""TensorFlow Datasets, as they lie prepared on disk: `tfds:NAME`, `tfds:NAME/CONFIG`, `tfds:NAME/CONFIG:VERSION`.

They are ArrayRecord files below $TFDS_DATA_DIR (or TFDS's own default, ~/tensorflow_datasets), and no TensorFlow is needed to
read them. `python -m train data prepare tfds:NAME` makes them. Without a version it is the newest that is there; a version may
have stars, `3.*.*`.

A row has the features of the data set: labels by their names, text as str, images as the PNG or JPEG they are stored as, and
arrays as numpy's. A label that is -1, as all of GLUE's tests have, is left out.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from data import builders
from data.errors import DataError
from data.sources import Bad, Row, Rows, check_slice, near, usual

AT_ONCE = 128  # records read together: more is hardly faster, and a record may be a film


@dataclass(frozen=True)
class Tfds:
    name: str

    def stamp(self) -> dict[str, str]:
        """Raises DataError for what is not prepared, or of which a file is missing."""
        builder = self._builder()
        state = {f"tfds:{self.name}": builder.info.full_name}
        for split, info in builder.info.splits.items():
            files = [_file_state(Path(path)) for path in info.filepaths]
            state[split] = f"{info.num_examples} rows in {', '.join(files)}"
        return state

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Rows]:
        """`wanted` is in TFDS's own language: `train[:10%]`, `train[1000:]+test`. Without it they are those
        of the data set that have our names, or a usual one (`dev`); where it has `train` and nothing else, its last tenth is
        `validation`.

        Raises DataError for what is not prepared, a split that it does not have, or a choice that is not plain.
        """
        builder = self._builder()
        wanted = wanted or usual(builder.info.splits, f"tfds:{self.name}")
        return {split: self._rows(builder, expression) for split, expression in wanted.items()}

    def _rows(self, builder: Any, expression: str) -> "_Rows":
        there = builder.info.splits
        for term in expression.split("+"):
            check_slice(term)
            split = term.partition("[")[0].strip()
            if split not in (*there, "all"):
                raise DataError(
                    f"data.source tfds:{self.name}: it has no split {split!r}{near(split, there)}; it has: {', '.join(there)}"
                )
        try:
            files = there[expression.replace(" ", "")].file_instructions
        except (ValueError, AssertionError) as error:
            what = str(error).splitlines()[0]
            raise DataError(f"data.splits: {expression!r}: {what}; train, train[:1000] and train[10%:20%] are splits") from None
        return _Rows(builder.info.features, tuple(files))

    def _builder(self) -> Any:
        """TFDS's view of the folder. Raises DataError where it cannot be read."""
        import tensorflow_datasets as tfds

        folder = self.folder()
        try:
            return tfds.builder_from_directory(folder, file_format="array_record")
        except Exception as error:  # of json, protobuf and TFDS: whatever is wrong with the few small files of the folder
            raise DataError(
                f"{folder}: no data set in ArrayRecord files can be read from it: {_first_line(error)}; "
                f"remove it, and python -m train data prepare tfds:{self.name} makes it anew"
            ) from None

    def folder(self) -> Path:
        """The folder of the version that is meant. Raises DataError where it is not there."""
        name, config, version = parse(self.name)
        there = prepared(name)
        if not config and "" not in there:
            config = _default_config(name)
        if config not in there:
            raise DataError(f"data.source tfds:{self.name}: {_not_there(name, config, there)}")
        for number, folder in reversed(there[config].items()):
            if fnmatch(number, version or "*"):
                return folder
        raise DataError(
            f"data.source tfds:{self.name}: version {version} is not prepared{near(version, there[config])}; "
            f"there are: {', '.join(there[config])}"
        )


def source(argument: str) -> Tfds:
    """Raises DataError for what is no name of a data set."""
    parse(argument)
    return Tfds(argument)


def parse(name: str) -> tuple[str, str, str]:
    """Name, config and version, the last two empty where they are not given. Raises DataError."""
    match = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::([\d*]+\.[\d*]+\.[\d*]+))?", name)
    if match is None:
        raise DataError(
            f"data.source tfds:{name}: that is no name; tfds:NAME, tfds:NAME/CONFIG or tfds:NAME/CONFIG:1.0.0 would be"
        )
    name, config, version = match.groups(default="")
    return name, config, version


def data_dir() -> Path:
    """Where TFDS keeps what it has prepared."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared(name: str) -> dict[str, dict[str, Path]]:
    """{config: {version: folder}}, versions from old to new; the config is "" where the data set has none."""
    found: dict[str, dict[str, Path]] = {}
    folders = [path.parent for pattern in ("*/features.json", "*/*/features.json") for path in (data_dir() / name).glob(pattern)]
    numbered = [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]  # others are half made
    for folder in sorted(numbered, key=lambda folder: (folder.parent, [int(part) for part in folder.name.split(".")])):
        config = "" if folder.parent == data_dir() / name else folder.parent.name
        found.setdefault(config, {})[folder.name] = folder
    return found


def _default_config(name: str) -> str:
    """The config that TFDS takes where none is named; "" where that was not written down."""
    try:
        return json.loads((data_dir() / name / ".config" / "metadata.json").read_text("utf-8"))["default_config_name"]
    except (OSError, ValueError, KeyError):
        return ""


def _not_there(name: str, config: str, there: Iterable[str]) -> str:
    """What to do about a data set, or a config of one, that is not prepared; `there` are those configs that are."""
    wanted = f"{name}/{config}" if config else name
    builder = builders.find(name)
    configs = {config.name for config in builder.BUILDER_CONFIGS} if builder else set()
    if builder and (config in configs or not config):
        what = f"it is not prepared in {data_dir()}; to prepare it: python -m train data prepare tfds:{wanted}"
    elif builder or there:
        what = f"{name} has no config {config!r}{near(config, [*configs, *there])}" if config else f"{name} needs a config"
    else:
        here = sorted(path.name for path in data_dir().glob("*") if prepared(path.name))
        close = near(name, [*here, *builders.known()])
        return f"there is no data set {name!r}{close}; {data_dir()} has: {', '.join(here) or 'none'}"
    return f"{what}; prepared are: {', '.join(f'{name}/{config}' for config in there)}" if any(there) else what


@dataclass(frozen=True)
class _Rows:
    features: Any
    files: tuple[Any, ...]
    "of each the name, and which of its records: TFDS's FileInstruction"

    def __len__(self) -> int:
        return sum(file.examples_in_shard if file.take == -1 else file.take for file in self.files)

    def __iter__(self) -> Iterator[Row | Bad]:
        """Raises DataError, with the name of the file, where it cannot be read."""
        import tensorflow_datasets as tfds
        from array_record.python.array_record_data_source import ArrayRecordDataSource
        from google.protobuf.message import DecodeError

        # An image stays encoded: it takes less room, and whoever needs its pixels decodes it.
        images = (name for name, feature in self.features.items() if isinstance(feature, tfds.features.Image))
        decoders = {name: tfds.decode.SkipDecoding() for name in images}
        for file in self.files:
            path = Path(file.filename)
            try:
                with ArrayRecordDataSource([file]) as records:
                    for first in range(0, len(records), AT_ONCE):
                        numbers = range(first, min(first + AT_ONCE, len(records)))
                        for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
                            row = self.features.deserialize_example_np(record, decoders=decoders)
                            yield self._plain(row, f"{path.name}, record {file.skip + number}")
            except (RuntimeError, ValueError, IndexError, DecodeError) as error:
                raise DataError(
                    f"{path}: the file is missing, cut short or damaged: {_first_line(error)}; prepare it anew"
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
    """The value with names for labels and str for text, however deep they lie; None for a label that is not given."""
    import numpy as np
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel):
        return None if value == -1 else feature.int2str(value)
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):  # TFDS has a sequence of dicts as a dict of sequences
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
        raise DataError(f"{path}: {error.strerror}; prepare the data set anew") from None
    return f"{path.name} ({state.st_size} bytes, {state.st_mtime_ns})"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).strip()
