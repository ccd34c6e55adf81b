"""Base class of the configs of images of one size, which are read once and cached.

Shapes: B batch, H height, W width, C channels.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data import labels as labelling
from data.cache import cached, read_json
from data.dataset import Batch, Dataset, Examples, Spec, fingerprint
from data.errors import DataError
from data.images import decoding, overlap, show
from data.reading import FromSource, Reading
from data.sources import WHERE
from data.sources.mixture import PART
from data.store import Stored, Writer

SMALL = 64 * 64 * 3  # bytes; encoded images up to this size are stored decoded, since decoding takes longer than reading
FIRST_ONLY = "of several frames or pages, only the first is used"


@dataclass(frozen=True, kw_only=True)
class FromImages(FromSource):
    """Batches with `image` float32 [B, H, W, C].

    Image files are decoded as described in `data.images.decoding`. Integers are scaled to [0, 1]; floats are unchanged.
    The normalization is left to the objective, since it comes after augmentation.
    """

    READS = ("image", "label")

    batch_size: int = 128
    shape: tuple[int, int, int] = (8, 8, 1)
    "height, width and channels (1: grey, 3: RGB)"
    resize: bool = False
    "resize images of another size (bilinear); if off, they are bad records"
    convert: bool = False
    "convert image files of another mode, such as colour to grey, and transparency to white; if off, they are bad records"
    normalize: Literal["unit", "symmetric", "standard"] = "unit"
    "range of images: [0, 1], [-1, 1], or mean 0 and standard deviation 1 of each channel over train"

    def __post_init__(self):
        super().__post_init__()
        if min(self.shape) < 1 or self.shape[2] not in (1, 3):
            raise ValueError(f"shape must be a height, a width, and 1 or 3 channels, not {self.shape}")

    def spec(self) -> dict[str, Spec]:
        batch = self.batch_size
        return {
            "image": Spec((batch, *self.shape), np.float32),
            "example": Spec((batch,), np.uint32),
            "valid": Spec((batch,), np.float32),
        }

    def show(self, batch: Batch, seen: Mapping[str, Any], codec: "ImageCodec", stem: Path) -> list[str]:
        return show.grid(seen, codec.labels, stem)

    def overlaps(self, dataset: Dataset) -> list[str]:
        """Return a line on the images of each held-out split that are also in train."""
        return overlap.lines(dataset.splits)

    def images(self) -> "StoredImages":
        """Return the images of the source, reading it if they are not cached. Raises DataError if it cannot be read."""
        reading = Reading(self)
        key = fingerprint(reading.key, self.LABELLED, self.shape, self.resize, self.convert)

        def write(folder: Path) -> None:
            try:
                self._write(folder, reading, decode=math.prod(self.shape) <= SMALL)
            except _NotBytes:
                self._write(folder, Reading(self), decode=False)

        folder = cached(f"images/{key}", write)
        about = read_json(folder / "about.json")
        return StoredImages({split: Stored(folder / f"{split}.array_record") for split in about["splits"]}, about)

    def assumed(self) -> dict[str, Any]:
        channels = self.shape[-1]
        return {**super().assumed(), **self.normalization([0.5] * channels, [0.25] * channels)}

    def normalization(self, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
        """Return facts for an objective: `image_mean` and `image_std`, unless images stay in [0, 1]."""
        if self.normalize == "unit":
            return {}
        channels = self.shape[-1]
        mean, std = (mean, std) if self.normalize == "standard" else ([0.5] * channels, [0.5] * channels)
        return {"image_mean": tuple(mean), "image_std": tuple(std)}

    def _write(self, folder: Path, reading: Reading, decode: bool) -> None:
        """Write one store per split. Encoded images are stored encoded, or with `decode` as bytes; others are stored as arrays.

        All are decoded, as a check. Raises _NotBytes if an image to be stored as bytes has other values."""
        codec, labels = ImageCodec(self.shape, self.resize, self.convert, ()), dict[str, int]()
        sizes, prints, more, moments = {}, {}, 0, np.zeros((2, self.shape[-1]))
        for split, rows in reading.splits().items():
            digest, writer = hashlib.sha256(), None
            try:
                for row in rows:
                    image, encoded, problem = row.get("image"), b"", ""
                    fixed: dict[str, Any] = {"label": np.int32(-1), "part": np.int16(row[PART])}
                    powers = np.zeros_like(moments)
                    try:
                        if isinstance(image, str):  # the fingerprint of the source would not cover the file
                            raise DataError("its image is a string; only the tables of a files: source may name image files")
                        decoded = codec.decode(row)
                        powers = np.stack([(decoded.astype(np.float64) ** power).mean((0, 1)) for power in (1, 2)])
                        if isinstance(image, bytes) and decode:
                            fixed["image"] = _as_bytes(decoded)
                        elif isinstance(image, bytes):
                            encoded = image
                        else:
                            fixed["image"] = np.asarray(image) if np.asarray(image).dtype == np.uint8 else decoded
                    except DataError as error:
                        problem = str(error)
                    columns = {name: Spec(value.shape, value.dtype.type) for name, value in fixed.items()}
                    if writer is not None and not problem and columns != writer.columns:
                        problem = "its image is of a different kind (encoded, uint8 or float) from those before it"
                    if problem:
                        reading.reject(problem)
                        continue
                    if split == "train":
                        moments += powers
                    if row.get("label") is not None:
                        fixed["label"] = np.int32(labels.setdefault(row["label"], len(labels)))
                    more += decoding.has_more(image)
                    writer = writer or Writer(folder / f"{split}.array_record", columns)
                    digest.update(f"{row.get('label')} ".encode() + writer.append(fixed, encoded))
                if writer is None:
                    raise DataError(f"data.source {self.source}: no images in {split}")
            except BaseException:
                if writer is not None:
                    writer.close(whole=False)
                raise
            writer.close()
            sizes[split], prints[split] = writer.count, digest.hexdigest()[:16]
        reading.check_unchanged()
        about = {
            "splits": sizes,
            "fields": reading.fields,
            "labels": list(labels),
            "bad": reading.bad,
            "more": more,
            "fingerprint": prints,
            "weights": reading.weights,
            **_mean_and_std(moments / sizes["train"]),
        }
        (folder / "about.json").write_text(json.dumps(about), "utf-8")

    def codec(self, folder: Path) -> "ImageCodec":
        labels = labelling.read(folder) if (folder / labelling.FILE).exists() else ()
        return ImageCodec(self.shape, self.resize, self.convert, labels)


@dataclass(frozen=True)
class StoredImages:
    stores: Mapping[str, Stored]
    facts: Mapping[str, Any]
    "`splits`, `fields`, `labels`, `bad`, `more`, `fingerprint`, `weights`, `mean` and `std`"

    def column(self, name: str) -> dict[str, np.ndarray]:
        """Return a column of each split: `label`, an index in `labels` or -1, or `part`, that of a mixture."""
        return {split: store.column(name) for split, store in self.stores.items()}

    def decoded(self, codec: "ImageCodec") -> dict[str, Examples]:
        return {split: Decoded(store, codec) for split, store in self.stores.items()}

    @property
    def notes(self) -> list[str]:
        return [f"{self.facts['more']} images: {FIRST_ONLY}"] if self.facts["more"] else []

    @property
    def source(self) -> dict[str, Any]:
        """The numbers of rows of the source, for `data inspect`."""
        facts = self.facts
        return {**facts["splits"], "fields": ", ".join(facts["fields"]), "bad records": len(facts["bad"])}


@dataclass(frozen=True)
class ImageCodec:
    """Conversion of images to arrays of `shape`."""

    shape: tuple[int, int, int]
    resize: bool
    convert: bool
    labels: tuple[str, ...]

    @property
    def files(self) -> dict[str, str]:
        return {labelling.FILE: json.dumps(self.labels)} if self.labels else {}

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Batch, list[str]]:
        """Return `image` [rows, H, W, C]. Raises DataError for a row without an image, or with one of another shape."""
        images, notes = [], []
        for i, row in enumerate(rows):
            where = row.get(WHERE, f"row {i}")
            try:
                images.append(self.decode(row))
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
            if decoding.has_more(row["image"]):
                notes.append(f"{where}: {FIRST_ONLY}")
        return {"image": np.stack(images)}, notes

    def decode(self, row: Mapping[str, Any]) -> np.ndarray:
        """Return the `image` of a row (encoded bytes, a path or an array) as float32 [H, W, C].

        Raises DataError if it has another type or shape.
        """
        if "image" not in row:
            raise DataError(f"it has no image; its fields: {', '.join(row) or 'nothing'}")
        try:
            image = scaled(self._array(row["image"]))
        except (ValueError, TypeError, OverflowError):
            raise DataError("its image is not an array of numbers") from None
        if image.shape != self.shape:
            raise DataError(f"its image is {list(image.shape)}, not {list(self.shape)} (data.shape)")
        if not np.isfinite(image).all():
            raise DataError("its image has non-finite values")
        return image

    def _array(self, image: Any) -> np.ndarray:
        """Return the image as uint8, uint16 or floats. Raises ValueError or TypeError if it is not an array of numbers."""
        if isinstance(image, bytes):
            return self.pixels(image)
        if isinstance(image, str):
            try:
                return self.pixels(Path(image).read_bytes())
            except (OSError, ValueError) as error:
                raise DataError(f"{image}: {getattr(error, 'strerror', error)}") from None
        array = np.asarray(image)
        if array.dtype.kind not in "uif":
            raise ValueError
        if array.dtype.kind == "f" or array.dtype in (np.uint8, np.uint16):
            return array
        if not ((array >= 0) & (array <= 255)).all():
            raise DataError("its image has integers outside 0 to 255; store it as uint16 or floats")
        return array.astype(np.uint8)

    def pixels(self, encoded: bytes) -> np.ndarray:
        """Decode an image file; see `data.images.decoding.pixels`."""
        return decoding.pixels(encoded, self.shape, self.resize, self.convert)


def scaled(image: np.ndarray) -> np.ndarray:
    """Convert to float32. 8-bit and 16-bit integers are divided by their maximum."""
    return image.astype(np.float32) / (np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)


def _mean_and_std(moments: np.ndarray) -> dict[str, list[float]]:
    """Return the mean and the standard deviation from the means of the first and second power, [2, C]."""
    mean_C, square_C = moments
    std_C = np.sqrt(np.maximum(square_C - mean_C**2, 0))
    return {"mean": mean_C.round(6).tolist(), "std": np.where(std_C > 1e-6, std_C, 1).round(6).tolist()}


class _NotBytes(Exception):
    """The values of an image are not multiples of 1/255."""


def _as_bytes(image: np.ndarray) -> np.ndarray:
    levels = np.round(image * 255).clip(0, 255).astype(np.uint8)
    if not np.array_equal(scaled(levels), image):
        raise _NotBytes
    return levels


class Decoded:
    """The decoded images of a store."""

    def __init__(self, store: Stored, codec: ImageCodec):
        self.store, self.codec = store, codec
        self.is_encoded = "image" not in store.wanted

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        if self.is_encoded:
            return {"image": np.stack([scaled(self.codec.pixels(encoded)) for encoded in self.store.payloads(indices)])}
        return {"image": scaled(self.store[indices]["image"])}


class Pictures(Sequence[np.ndarray]):
    """The images of examples, read on access."""

    def __init__(self, examples: Examples):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[np.array([index])]["image"][0]
