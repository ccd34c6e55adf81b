"""Prepare a dataset: a builder of TFDS or of `data/builders` writes ArrayRecord files to $TFDS_DATA_DIR."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data import builders
from data.errors import DataError
from data.sources import near, tfds


def prepare(name: str, raw: Path | None = None) -> Path:
    """Prepare the dataset NAME, NAME/CONFIG or NAME/CONFIG:VERSION unless it exists. Return its folder.

    `raw` is the folder of manually downloaded files (default: $FMODELS_DATA, if set).

    Raises DataError for an unknown name, or if the network, a manually downloaded file or TensorFlow is missing.
    """
    import tensorflow_datasets

    if raw is None and os.environ.get("FMODELS_DATA"):
        raw = Path(os.environ["FMODELS_DATA"])
    if raw is not None and not raw.is_dir():
        raise DataError(f"{raw}: no such folder; give the folder of the files with --from FOLDER or $FMODELS_DATA")
    with _quiet():
        builder = _builder(name)
    config = tensorflow_datasets.download.DownloadConfig(manual_dir=raw)
    try:
        with _quiet():
            builder.download_and_prepare(file_format="array_record", download_config=config)
    except DataError:
        raise
    except Exception as error:  # each of the hundreds of builders may raise its own errors
        raise DataError(f"tfds:{name}: {_explain(error, builder.MANUAL_DOWNLOAD_INSTRUCTIONS or '')}") from error
    return Path(builder.data_dir)


def _builder(name: str) -> Any:
    base, config, version = tfds.parse(name)
    builder_class = builders.find(base)
    if builder_class is None:
        raise DataError(
            f"tfds:{name}: unknown dataset {base!r}{near(base, builders.known())}; "
            f"available: {', '.join(builders.own())} and those of https://www.tensorflow.org/datasets/catalog/overview"
        )
    configs = [config.name for config in builder_class.BUILDER_CONFIGS]
    if config and config not in configs:
        raise DataError(
            f"tfds:{name}: {base} has no config {config!r}{near(config, configs)}; available: {', '.join(configs) or 'none'}"
        )
    options = {"config": config or None, "version": version or None}
    try:
        return builder_class(data_dir=tfds.data_dir(), **{option: value for option, value in options.items() if value})
    except ImportError as error:
        raise DataError(f"tfds:{name}: {_explain(error)}") from error
    except AssertionError as error:  # TFDS raises it for an unknown version
        raise DataError(f"tfds:{name}: {_one_line(error)}") from None


def _explain(error: Exception, instructions: str = "") -> str:
    """Return the problem and, if known, its fix."""
    from requests.exceptions import ConnectionError, Timeout
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    chain = list(_chain(error))
    missing = next((e for e in chain if isinstance(e, ImportError)), None)
    if any("No module named 'tensorflow'" in str(e) for e in chain):
        return (
            "TFDS needs TensorFlow to prepare this dataset (not to read it); install it with: pip install 'fmodels[tfds-prepare]'"
        )
    if missing is not None:
        return f"the builder needs a library that is not installed: {_one_line(missing)}"
    if failed := next((e for e in chain if isinstance(e, ConnectionError | Timeout)), None):
        address = getattr(getattr(failed, "request", None), "url", None) or "the download address"
        return f"cannot reach {address}; connect to the network, or download the files and use --from FOLDER"
    if isinstance(error, NonMatchingChecksumError):
        return f"the downloaded file has the wrong checksum: {_one_line(error)}"
    if isinstance(error, AssertionError) and "Manual directory" in str(error):
        return f"download these files manually, then use --from FOLDER: {' '.join(instructions.split())}"
    return f"{type(error).__name__}: {_one_line(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence TFDS except for its progress bars on a terminal; errors are reported by `prepare`."""
    import tensorflow_datasets
    from absl import logging as absl_logging
    from tensorflow_datasets.core.download import downloader

    show = sys.stderr.isatty()
    (tensorflow_datasets.enable_progress_bar if show else tensorflow_datasets.disable_progress_bar)()
    retry_log = logging.getLogger("urllib3.connectionpool")
    before = downloader.MAX_RETRIES, retry_log.level, absl_logging.get_verbosity()
    downloader.MAX_RETRIES = 5  # by default, TFDS gives up after three minutes without a network
    retry_log.setLevel(logging.ERROR)
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        downloader.MAX_RETRIES = before[0]
        retry_log.setLevel(before[1])
        absl_logging.set_verbosity(before[2])
