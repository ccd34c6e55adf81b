"""WikiText-2 (Merity et al. 2016): tokenized "Good" articles of Wikipedia, with rare words replaced by `<unk>`.

Each row is a non-blank line (a heading or a paragraph), in the original order. Its `document` names the article: `3. Title`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data.errors import DataError

FILES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "wikitext2"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"any of {', '.join(FILES.values())}, one per split, in a folder wikitext2"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Tokenized Good articles of Wikipedia.",
            homepage="https://arxiv.org/abs/1609.07843",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "document": tfds.features.Text()}),
            disable_shuffling=True,  # language models need the original order
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        # The file names are too common to search for in other folders.
        folder = folder if folder.name == self.name else folder / self.name
        found = {split: folder / name for split, name in FILES.items() if (folder / name).is_file()}
        if not found:
            raise DataError(f"{folder}: no {', '.join(FILES.values())} in this folder; at least one is needed")
        return {split: self._generate_examples(path) for split, path in found.items()}

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
        article, count, after_blank = "", 0, True
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(map(str.strip, lines)):
                if after_blank and (match := re.fullmatch(r"= ([^=].*[^=]) =", line)):
                    count += 1
                    article = f"{count}. {match[1]}"  # titles may repeat, because rare words are <unk>
                if line:
                    yield number, {"text": line, "document": article}
                after_blank = not line
