"""TFDS as a source: reading prepared ArrayRecord files, and error messages."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data import sources
from data.errors import DataError
from data.sources import Bad
from data.sources.tfds import plain, source

MNIST_TRAIN = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)

published = pytest.mark.skipif(not os.environ.get("TFDS_DATA_DIR"), reason="TFDS_DATA_DIR is not set")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the datasets `odd` (two versions, every kind of feature, only `train`) and `matched`."""
    import tensorflow_datasets as tfds

    class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "odd"
        VERSION = tfds.core.Version("1.10.0")
        SPLITS = ("train",)
        ROWS = 20

        def _info(self):
            word = tfds.features.ClassLabel(names=["noun", "verb"])
            features = {
                "number": np.int64,
                "text": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["no", "yes"]),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "heights": tfds.features.Image(shape=(2, 2, 4)),
                "tags": tfds.features.Sequence(word),
                "words": tfds.features.Sequence({"word": tfds.features.Text(), "tag": word}),
                "vector": tfds.features.Tensor(shape=(2, 2), dtype=np.float32),
                "deep": {"text": tfds.features.Text(), "label": word},
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in self.SPLITS}

        def _generate_examples(self):
            import io

            from PIL import Image

            for number in range(self.ROWS):
                image, heights = io.BytesIO(), io.BytesIO()
                Image.new("RGB", (3, 2), (number, 0, 0)).save(image, "png")
                bits = np.full((2, 2, 1), number / 8, np.float32).view(np.uint8)
                Image.fromarray(bits, "RGBA").save(heights, "png")
                yield (
                    number,
                    {
                        "number": number,
                        "text": "Grüße" if number else b"gr\xfc\xdfe",
                        "label": -1 if number == 1 else number % 2,
                        "image": io.BytesIO(image.getvalue()),
                        "heights": io.BytesIO(heights.getvalue()),
                        "tags": [0, 1][: number % 3],
                        "words": [{"word": "é", "tag": 1}] * (number % 2),
                        "vector": np.eye(2, dtype=np.float32),
                        "deep": {"text": "ü", "label": 1},
                    },
                )

    class Matched(Odd, skip_registration=True):
        name = "matched"
        SPLITS = ("train", "validation_matched")

    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    for builder in (Odd, Matched):
        builder(data_dir=folder).download_and_prepare(file_format="array_record")
    older = shutil.copytree(folder / "odd" / "1.10.0", folder / "odd" / "1.9.0") / "dataset_info.json"
    older.write_text(older.read_text().replace("1.10.0", "1.9.0"))
    return folder


@pytest.fixture
def mine(made, tmp_path, monkeypatch) -> Path:
    """A copy of `made` that tests may modify, used as $TFDS_DATA_DIR."""
    shutil.copytree(made, tmp_path / "tfds")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


@pytest.mark.slow
@published
def test_mnist_is_complete_and_its_images_are_png():
    splits = source("mnist").splits({}, {})
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 60_000, "test": 10_000}
    counts = Counter(row["label"] for row in splits["train"])
    assert counts == {str(digit): count for digit, count in enumerate(MNIST_TRAIN)}
    row = next(iter(splits["train"]))
    assert set(row) == {"image", "label"} and row["label"] == "4" and row["image"].startswith(b"\x89PNG")


@published
def test_sst2_is_complete_and_its_test_split_has_no_labels():
    splits = source("glue/sst2").splits({}, {})
    assert list(splits) == ["train", "validation", "test"]
    assert [len(rows) for rows in splits.values()] == [67_349, 872, 1_821]
    assert [next(iter(rows)) for rows in splits.values()] == [
        {"idx": 16399, "label": "negative", "sentence": "for the uninitiated plays better on video with the sound"},
        {"idx": 787, "label": "negative", "sentence": "it treats women like idiots ."},
        {"idx": 163, "sentence": "if you love motown music , you 'll love this documentary ."},
    ]
    assert Counter(row["label"] for row in splits["validation"]) == {"positive": 444, "negative": 428}
    assert not any("label" in row for row in splits["test"])


@published
def test_splits_use_the_syntax_of_tfds():
    whole = [row["idx"] for row in source("glue/sst2").splits({"train": "validation"}, {})["train"]]
    chosen = {"train": "validation[:50%]", "validation": "validation[50%:]"}
    splits = {split: [row["idx"] for row in rows] for split, rows in source("glue/sst2:2.*.*").splits(chosen, {}).items()}
    assert splits["train"] + splits["validation"] == whole and len(splits["train"]) == 436
    joined = source("glue/sst2").splits({"train": "validation[-2:] + validation[:3]"}, {})["train"]
    assert [row["idx"] for row in joined] == whole[-2:] + whole[:3]


@published
@pytest.mark.parametrize(
    ("train", "held_out"),
    [("train[:90%]", "train[80%:]"), ("train[:55000]", "train[90%:]"), ("train", "train[-1:]"), ("test+train[:5]", "test[9:]")],
)
def test_splits_with_records_in_common_are_refused(train, held_out):
    with pytest.raises(DataError) as caught:
        source("mnist").splits({"train": train, "validation": held_out}, {})
    assert f"data.splits: train={train} and validation={held_out} overlap" in str(caught.value)


@published
@pytest.mark.parametrize(
    "name, wanted, message",
    [
        ("mnits", {}, r"unknown dataset 'mnits'; did you mean mnist\?; prepared in .*: .*mnist"),
        ("cifar10", {}, "not prepared in .*; run fmodels data prepare tfds:cifar10$"),
        ("fsdd", {}, "run fmodels data prepare tfds:fsdd$"),
        ("squad", {}, "run fmodels data prepare tfds:squad$"),  # an older builder, registered on import
        ("glue", {}, "run fmodels data prepare tfds:glue/cola; prepared configs: glue/sst2"),
        ("glue/cola", {}, "run fmodels data prepare tfds:glue/cola; prepared configs: glue/sst2"),
        ("glue/sst3", {}, r"glue has no config 'sst3'; did you mean sst2\?; prepared configs: glue/sst2"),
        ("glue/sst2:2.0.1", {}, r"version 2.0.1 is not prepared; did you mean 2.0.0\?; prepared versions: 2.0.0"),
        ("mnist/x", {}, "mnist has no config 'x'"),
        ("mnist", {"train": "trian"}, r"no split 'trian'; did you mean train\?; available: train, test"),
        ("mnist", {"train": "train[:x]"}, r"data.splits: 'train\[:x\]': Error parsing split"),
        ("mnist", {"train": "train[:60001]"}, "incompatible with 60000 examples"),
    ],
)
def test_missing_datasets_and_splits_are_reported_in_one_line(name, wanted, message):
    with pytest.raises(DataError, match=message) as caught:
        source(name).splits(wanted, {})
    assert "\n" not in str(caught.value)


def test_an_invalid_name_is_rejected():
    for name in ("", "a b", "mnist:3", "mnist/", "a/b/c"):
        with pytest.raises(DataError, match="invalid name; use tfds:NAME"):
            source(name)


def test_rows_have_label_names_and_str_text(mine):
    rows = list(source("odd").splits({"train": "train"}, {})["train"])
    assert rows[0] == Bad("odd-train.array_record-00000-of-00001, record 0", "text: byte 2 (0xfc) is not UTF-8")
    assert "label" not in rows[1] and rows[1]["tags"] == ["noun"]
    row = rows[5]
    assert row["image"].startswith(b"\x89PNG") and np.array_equal(row["vector"], np.eye(2)) and row["vector"].dtype == np.float32
    del row["image"], row["vector"], row["heights"]
    assert row == {
        "number": 5,
        "text": "Grüße",
        "label": "yes",
        "tags": ["noun", "verb"],
        "words": {"word": ["é"], "tag": ["verb"]},
        "deep": {"text": "ü", "label": "verb"},
    }


def test_images_of_floats_are_decoded(mine):
    """TFDS stores them as the colours of a PNG, for which it needs TensorFlow: `heights` is made as such colours."""
    for file in (mine / "odd").glob("*/features.json"):
        features = json.loads(file.read_text())
        features["featuresDict"]["features"]["heights"]["image"] |= {
            "dtype": "float32",
            "shape": {"dimensions": ["2", "2", "1"]},
        }
        file.write_text(json.dumps(features))
    row = list(source("odd").splits({"train": "train"}, {})["train"])[5]
    assert np.array_equal(row["heights"], np.full((2, 2, 1), 5 / 8))


def test_nested_labels_become_names():
    import tensorflow_datasets as tfds

    words = tfds.features.Sequence(tfds.features.ClassLabel(names=["noun", "verb"]))
    found = plain(
        tfds.features.Sequence({"lines": tfds.features.Sequence(words)}), {"lines": [[np.array([1]), np.array([0, 1])]]}
    )
    assert found == {"lines": [[["verb"], ["noun", "verb"]]]}


def test_a_tenth_of_each_label_is_held_out_if_train_is_the_only_split(mine):
    splits = source("odd").splits({}, {"label": "label"})
    numbers = {split: [row["number"] for row in rows if not isinstance(row, Bad)] for split, rows in splits.items()}
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(1, 20))
    assert [number % 2 for number in numbers["validation"]] == [0, 1, 0, 1]
    assert [row["number"] for row in splits["validation"]] == numbers["validation"]  # rows can be read again
    with pytest.raises(DataError, match=r"cannot infer .*; available: train, validation_matched; use --data\.splits"):
        source("matched").splits({}, {})


def test_the_newest_version_is_read_and_named_in_the_stamp_with_its_files(mine):
    stamp = source("odd").stamp()
    assert stamp["tfds:odd"] == "odd/1.10.0" and stamp["train"].startswith("20 rows in odd-train.array_record-00000-of-00001 (")
    assert source("odd:1.9.0").stamp()["tfds:odd:1.9.0"] == "odd/1.9.0"
    os.utime(next((mine / "odd" / "1.10.0").glob("*train*")), (1, 1))
    assert source("odd").stamp() != stamp
    assert sources.find("tfds:odd") == source("odd") and hash(source("odd")) is not None


def test_damaged_files_are_named(mine):
    path = next((mine / "odd" / "1.10.0").glob("*train*"))
    read = lambda: [len(list(rows)) for rows in source("odd").splits({}, {}).values()]
    assert read() == [18, 2]
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:40] + bytes([whole[40] ^ 255]) * 3000 + whole[3040:]):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=f"{path.name}: the file is missing, truncated or damaged: .*; prepare the dataset again$"
        ):
            read()
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        read()
    with pytest.raises(DataError, match=f"{path.name}: No such file"):
        source("odd").stamp()
    path.with_name("dataset_info.json").write_text("{")
    with pytest.raises(
        DataError, match=r"cannot read a dataset of ArrayRecord files: .*; remove the folder and run .*prepare tfds:odd"
    ):
        source("odd").splits({}, {})
