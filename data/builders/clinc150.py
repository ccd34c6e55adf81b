"""CLINC150 (Larson et al. 2019): user queries to an assistant, with 150 intents in ten domains.

Out-of-scope utterances have the label `oos` and separate splits. `train=train+train_oos` trains on both.
"""

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data import builders

ARCHIVE = "clinc_oos.zip"
FILES = {
    "train": "train.csv",
    "validation": "val.csv",
    "test": "test.csv",
    "train_oos": "train_ood.csv",
    "validation_oos": "val_ood.csv",
    "test_oos": "test_ood.csv",
}


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "clinc150"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{ARCHIVE}, containing {', '.join(FILES.values())}"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(num_classes=151),  # _split_generators reads the names from the files
            "domain": tfds.features.ClassLabel(num_classes=11),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="22,500 utterances with 150 intents, and 1,200 out-of-scope utterances.",
            homepage="https://github.com/clinc/oos-eval",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("text", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        archive = builders.raw(Path(dl_manager.manual_dir), ARCHIVE)
        rows = [row for split in ("train", "train_oos") for row in _rows(archive, split)]
        features: Any = self.info.features
        for feature, column in (("label", "intent"), ("domain", "domain")):
            names = {int(row[column]): row[f"{column}_name"] for row in rows}
            features[feature].names = [name for _, name in sorted(names.items())]
        return {split: self._generate_examples(archive, split) for split in FILES}

    def _generate_examples(self, archive: Path, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(_rows(archive, split)):
            yield number, {"text": row["text"], "label": row["intent_name"], "domain": row["domain_name"]}


def _rows(archive: Path, split: str) -> Iterator[dict[str, str]]:
    with zipfile.ZipFile(archive) as members, members.open(FILES[split]) as file:
        yield from csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""))
