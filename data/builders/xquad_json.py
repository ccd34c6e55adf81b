"""XQuAD (Artetxe et al. 2020): extractive question answering on Wikipedia paragraphs, professionally translated.

Each language with a file is a split. Choose the training and held-out languages with `data.splits`. `start` is the offset of the
answer in `context`, in characters.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data.errors import DataError


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "xquad_json"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "xquad.LANGUAGE.json for each language to use as a split, in a folder or its subfolders"

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {"id": text, "context": text, "question": text, "answer": text, "start": np.int32}
        return tfds.core.DatasetInfo(
            builder=self,
            description="240 paragraphs and 1,190 questions per language.",
            homepage="https://github.com/google-deepmind/xquad",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        found = {path.name.split(".")[1]: path for path in sorted(folder.glob("**/xquad.*.json"))}
        if not found:
            raise DataError(f"{folder}: no xquad.LANGUAGE.json in this folder or its subfolders; give another with --from FOLDER")
        return {language: self._generate_examples(path) for language, path in found.items()}

    def _generate_examples(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for article in json.loads(path.read_text("utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    (answer,) = question["answers"]
                    yield (
                        question["id"],
                        {
                            "id": question["id"],
                            "context": paragraph["context"],
                            "question": question["question"],
                            "answer": answer["text"],
                            "start": answer["answer_start"],
                        },
                    )
