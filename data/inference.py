"""The data config that fits a source, from the fields of its first row."""

import io
from typing import Any

import numpy as np

from data import sources
from data.errors import DataError
from data.images.labelled import Images
from data.images.unlabelled import UnlabelledImages
from data.reading import FromSource, pairs
from data.sources import WHERE, Bad
from data.text.labelled import LabelledText
from data.text.language_modelling import Text
from data.text.multi_labelled import MultiLabelledText
from data.text.related import RelatedTexts
from data.text.scored import ScoredText
from data.text.sentence_pairs import SentencePairs

ROWS = 8  # rows per batch


def config_for(source: str, fields: str = "", splits: str = "") -> FromSource:
    """Return a config of texts, pairs of texts or images. Raises DataError if the first row fits none of them."""
    mapped = pairs("fields", fields)
    names = {**{name: name for name in ("image", "text", "second", "label", "labels", "score")}, **mapped}
    found = sources.find(source).splits({}, names) if not splits else sources.find(source).splits(pairs("splits", splits), names)
    row = next((row for row in next(iter(found.values())) if not isinstance(row, Bad)), {})
    common: dict[str, Any] = {"source": source, "fields": fields, "splits": splits, "batch_size": ROWS}
    if names["image"] in row:
        kind = Images if names["label"] in row or "label" in mapped else UnlabelledImages
        return kind(**common, shape=_shape(row[names["image"]]), resize=True)
    if names["text"] in row:
        has = {name for name in names if names[name] in row or name in mapped}
        if "second" in has and not has & {"label", "labels", "score"}:
            return RelatedTexts(**common)
        if "label" in has:
            return SentencePairs(**common) if "second" in has else LabelledText(**common)
        if "labels" in has:
            return MultiLabelledText(**common, pairs="second" in has)
        return ScoredText(**common, pairs="second" in has) if "score" in has else Text(**common)
    available = ", ".join(name for name in row if name != WHERE)
    raise DataError(
        f"data.source {source}: no field {names['text']!r} or {names['image']!r}; available: {available}; "
        "choose one with --data.fields text=NAME or image=NAME"
    )


def _shape(image: Any) -> tuple[int, int, int]:
    """Return height, width and channels (1 or 3) of an image, encoded or an array."""
    if isinstance(image, bytes):
        import PIL.Image

        picture = PIL.Image.open(io.BytesIO(image))
        return picture.height, picture.width, 1 if picture.mode in ("1", "L") or picture.mode.startswith("I") else 3
    height, width, *channels = np.shape(image)
    return height, width, 1 if channels in ([], [1]) else 3
