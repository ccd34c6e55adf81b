"""WNUT 2017 (Derczynski et al. 2017): rare and emerging named entities in what people write on the web.

A row is a sentence: its `tokens`, and the `tags` of each in the BIO scheme (`B-person`, `I-person`, …, `O`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data import builders
from data.errors import DataError

FILES = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}
ENTITIES = ("corporation", "creative-work", "group", "location", "person", "product")
TAGS = ("O", *(f"{place}-{entity}" for entity in ENTITIES for place in "BI"))


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
            description="Sentences whose rare and new named entities are tagged.",
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
    """(token, tag) a line; blank ones are between sentences."""
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        token, tab, tag = line.strip().partition("\t")
        if tab and tag in TAGS:
            rows.append((token, tag))
        elif token:
            raise DataError(f"{path}, line {number}: a token, a tab and a tag ({', '.join(TAGS)}) are needed, not {line!r}")
        elif rows:
            yield rows
            rows = []
    if rows:
        yield rows
