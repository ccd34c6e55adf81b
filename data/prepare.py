"""Makes a data set that can be read: TFDS's builders, and ours, write their ArrayRecord files below $TFDS_DATA_DIR."""

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
    """The folder of the data set NAME, NAME/CONFIG or NAME/CONFIG:VERSION, which is made if it is not there. `raw` holds what was
    fetched by hand; by default it is $FMODELS_DATA, if that is set.

    Raises DataError for a name that nobody knows, without a network where one is needed, without the files that are to be fetched
    by hand, and where the builder calls TensorFlow and there is none.
    """
    import tensorflow_datasets

    if raw is None and os.environ.get("FMODELS_DATA"):
        raw = Path(os.environ["FMODELS_DATA"])
    if raw is not None and not raw.is_dir():
        raise DataError(f"{raw}: there is no such folder; --from FOLDER, or $FMODELS_DATA, says where the files are")
    with _quiet():
        builder = _builder(name)
    config = tensorflow_datasets.download.DownloadConfig(manual_dir=raw)
    try:
        with _quiet():
            builder.download_and_prepare(file_format="array_record", download_config=config)
    except DataError:
        raise
    except Exception as error:  # whatever a builder, of which there are hundreds, makes of a missing network, file or library
        raise DataError(f"tfds:{name}: {_what(error, builder.MANUAL_DOWNLOAD_INSTRUCTIONS or '')}") from error
    return Path(builder.data_dir)


def _builder(name: str) -> Any:
    base, config, version = tfds.parse(name)
    known = builders.find(base)
    if known is None:
        raise DataError(
            f"tfds:{name}: there is no data set {base!r}{near(base, builders.known())}; "
            f"there are {', '.join(builders.ours())}, and those of https://www.tensorflow.org/datasets/catalog/overview"
        )
    configs = [config.name for config in known.BUILDER_CONFIGS]
    if config and config not in configs:
        raise DataError(
            f"tfds:{name}: {base} has no config {config!r}{near(config, configs)}; it has: {', '.join(configs) or 'none'}"
        )
    options = {"config": config or None, "version": version or None}
    try:
        return known(data_dir=tfds.data_dir(), **{option: value for option, value in options.items() if value})
    except ImportError as error:
        raise DataError(f"tfds:{name}: {_what(error)}") from error
    except AssertionError as error:  # a version that the builder does not have
        raise DataError(f"tfds:{name}: {_one_line(error)}") from None


def _what(error: Exception, instructions: str = "") -> str:
    """What to do about it, as far as it can be told."""
    from requests.exceptions import ConnectionError, Timeout
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    chain = list(_chain(error))
    missing = next((e for e in chain if isinstance(e, ImportError)), None)
    if any("No module named 'tensorflow'" in str(e) for e in chain):
        return (
            "TFDS needs TensorFlow to prepare it (its archives, sound and pixels go through it), though not to read it: "
            "pip install 'fmodels[tfds-prepare]'"
        )
    if missing is not None:
        return f"its builder needs a library that is not installed: {_one_line(missing)}"
    if lost := next((e for e in chain if isinstance(e, ConnectionError | Timeout)), None):
        address = getattr(getattr(lost, "request", None), "url", None) or "its address"
        return f"{address} cannot be reached; it needs a network, or its files, fetched by hand, in --from FOLDER"
    if isinstance(error, NonMatchingChecksumError):
        return f"what was fetched is not what its authors published: {_one_line(error)}"
    if isinstance(error, AssertionError) and "Manual directory" in str(error):
        return f"its files are to be fetched by hand; --from FOLDER says where they are: {' '.join(instructions.split())}"
    return f"{type(error).__name__}: {_one_line(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Progress bars on a terminal, and nothing else of what TFDS has to say: that is said at the end, in one line."""
    import tensorflow_datasets
    from absl import logging as absl_logging
    from tensorflow_datasets.core.download import downloader

    show = sys.stderr.isatty()
    (tensorflow_datasets.enable_progress_bar if show else tensorflow_datasets.disable_progress_bar)()
    retrying = logging.getLogger("urllib3.connectionpool")
    before = downloader.MAX_RETRIES, retrying.level, absl_logging.get_verbosity()
    downloader.MAX_RETRIES = 5  # TFDS takes three minutes to find that there is no network
    retrying.setLevel(logging.ERROR)
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        downloader.MAX_RETRIES = before[0]
        retrying.setLevel(before[1])
        absl_logging.set_verbosity(before[2])
