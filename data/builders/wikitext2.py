"""WikiText-2 (Merity et al. 2016): good articles of Wikipedia, cut into words, rare ones replaced by `<unk>`.

A row is a line that is not blank, be it a heading or a paragraph, in the order of the text; its `document`
is the article, as `3. Title`.
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
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"those of {', '.join(FILES.values())} that are to be splits, in a folder wikitext2"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Good articles of Wikipedia, word by word.",
            homepage="https://arxiv.org/abs/1609.07843",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "document": tfds.features.Text()}),
            disable_shuffling=True,  # a language model reads the lines in their order
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        # Files of such plain names may be anything's: they are looked for in no other folder.
        folder = folder if folder.name == self.name else folder / self.name
        found = {split: folder / name for split, name in FILES.items() if (folder / name).is_file()}
        if not found:
            raise DataError(f"{folder}: there is none of {', '.join(FILES.values())} in it")
        return {split: self._generate_examples(path) for split, path in found.items()}

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
        article, count, after_blank = "", 0, True
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(map(str.strip, lines)):
                if after_blank and (match := re.fullmatch(r"= ([^=].*[^=]) =", line)):
                    count += 1
                    article = f"{count}. {match[1]}"  # titles alone are not unique, as their words may be <unk>
                if line:
                    yield number, {"text": line, "document": article}
                after_blank = not line
