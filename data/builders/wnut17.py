"""WNUT 2017 (Derczynski et al. 2017): rare and emerging named entities in user-generated text.

Each row is a sentence with `tokens` and one BIO tag per token in `tags` (`B-person`, `I-person`, …, `O`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data import builders
from data.errors import DataError

FILES = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}
ENTITIES = ("corporation", "creative-work", "group", "location", "person", "product")
TAGS = ("O", *(f"{prefix}-{entity}" for entity in ENTITIES for prefix in "BI"))


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "wnut17"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = ", ".join(FILES.values())

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "tokens": tfds.features.Sequence(tfds.features.Text()),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=TAGS)),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sentences with tags for rare and emerging named entities.",
            homepage="https://noisy-text.github.io/2017/emerging-rare-entities.html",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        return {split: self._generate_examples(builders.raw(folder, name)) for split, name in FILES.items()}

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, rows in enumerate(_sentences(path)):
            tokens, tags = zip(*rows, strict=True)
            yield number, {"tokens": list(tokens), "tags": list(tags)}


def _sentences(path: Path) -> Iterator[list[tuple[str, str]]]:
    """Yield each sentence as (token, tag) pairs. The file has one pair per line and blank lines between sentences."""
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        token, tab, tag = line.strip().partition("\t")
        if tab and tag in TAGS:
            rows.append((token, tag))
        elif token:
            raise DataError(f"{path}, line {number}: expected TOKEN<tab>TAG with a tag of {', '.join(TAGS)}, not {line!r}")
        elif rows:
            yield rows
            rows = []
    if rows:
        yield rows
