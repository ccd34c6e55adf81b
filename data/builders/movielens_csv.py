"""MovieLens (Harper and Konstan 2015) from its CSV files: movie ratings with user and timestamp.

Ratings keep the order of the file, grouped by user. Choose the held-out ratings with `data.splits`.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data import builders

FILES = ("ratings.csv", "movies.csv")


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "movielens_csv"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{' and '.join(FILES)}, from ml-latest-small or another MovieLens archive"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "user": np.int32,
            "movie": np.int32,
            "rating": np.float32,  # 0.5 to 5 stars, in steps of 0.5
            "timestamp": np.int64,  # Unix time, in seconds
            "title": tfds.features.Text(),
            "genres": tfds.features.Text(),  # separated by |
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Movie ratings, with titles and genres.",
            homepage="https://grouplens.org/datasets/movielens",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        ratings, movies = (builders.raw(Path(dl_manager.manual_dir), name) for name in FILES)
        return {"train": self._generate_examples(ratings, {row["movieId"]: row for row in _rows(movies)})}

    def _generate_examples(self, ratings: Path, movies: dict[str, dict]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(_rows(ratings)):
            movie = movies[row["movieId"]]
            yield (
                number,
                {
                    "user": int(row["userId"]),
                    "movie": int(row["movieId"]),
                    "rating": float(row["rating"]),
                    "timestamp": int(row["timestamp"]),
                    "title": movie["title"],
                    "genres": movie["genres"],
                },
            )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
