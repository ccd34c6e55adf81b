"""XQuAD (Artetxe et al. 2020): questions on paragraphs of Wikipedia, translated by people; answers are stretches of the text.

The splits are the languages that there are files of: `data.splits` says which is trained on and which held out. `start` is the
character of `context` at which the answer begins.
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
    MANUAL_DOWNLOAD_INSTRUCTIONS = "xquad.LANGUAGE.json of the languages that are to be splits, in a folder or a folder of it"

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {"id": text, "context": text, "question": text, "answer": text, "start": np.int32}
        return tfds.core.DatasetInfo(
            builder=self,
            description="240 paragraphs and 1,190 questions in each language.",
            homepage="https://github.com/google-deepmind/xquad",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        found = {path.name.split(".")[1]: path for path in sorted(folder.glob("**/xquad.*.json"))}
        if not found:
            raise DataError(f"{folder}: there is no xquad.LANGUAGE.json in it; --from FOLDER says where they are")
        return {language: self._generate_examples(path) for language, path in found.items()}

    def _generate_examples(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for article in json.loads(path.read_text("utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    (answer,) = asked["answers"]
                    yield (
                        asked["id"],
                        {
                            "id": asked["id"],
                            "context": paragraph["context"],
                            "question": asked["question"],
                            "answer": answer["text"],
                            "start": answer["answer_start"],
                        },
                    )
