"""Hugging Face datasets as a source: local Parquet files and error messages."""

import io
import json
import os
import sys
from collections import Counter

import numpy as np
import pytest

from data.errors import DataError
from data.sources.hf import source


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets", reason="datasets is not installed: pip install 'fmodels[hf]'")


@pytest.fixture
def folder(datasets, tmp_path):
    """Parquet files laid out like a dataset on the Hub."""
    from PIL import Image

    def png(value: int) -> bytes:
        file = io.BytesIO()
        Image.new("L", (3, 2), value).save(file, "png")
        return file.getvalue()

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "image": datasets.Image(),
            "tags": datasets.List(datasets.ClassLabel(names=["noun", "verb"])),
            "vector": datasets.List(datasets.Value("float32")),
            "deep": {"label": datasets.ClassLabel(names=["a", "b"])},
        }
    )
    for split, numbers in (("train", range(40)), ("validation", range(40, 45))):
        rows = [
            {
                "text": f"row {i}",
                "label": -1 if i == 1 else i % 2,
                "image": {"bytes": png(i), "path": None},
                "tags": [0, 1],
                "vector": [0.5, i],
                "deep": {"label": 1},
            }
            for i in numbers
        ]
        (tmp_path / "rows").mkdir(exist_ok=True)
        datasets.disable_progress_bars()
        datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "rows"


def test_a_folder_of_parquet_files_yields_label_names_and_encoded_images(folder):
    splits = source(str(folder)).splits({}, {})
    assert list(splits) == ["train", "validation"]
    train, validation = (list(rows) for rows in splits.values())
    assert [row["text"] for row in train + validation] == [f"row {i}" for i in range(45)]
    assert "label" not in train[1]
    row = train[3]
    assert row["image"].startswith(b"\x89PNG") and np.array_equal(row["vector"], [0.5, 3])
    assert (row["label"], row["tags"], row["deep"]) == ("yes", ["noun", "verb"], {"label": "b"})
    assert [row["text"] for row in splits["validation"]] == [row["text"] for row in validation]  # rows can be read again


def test_splits_are_selected_from_those_of_the_dataset(folder):
    splits = source(str(folder)).splits({"train": "train[:90%]+validation", "validation": "train[90%:]"}, {})
    assert [len(list(rows)) for rows in splits.values()] == [41, 4]
    with pytest.raises(DataError, match=r"no split 'validate'; did you mean validation\?; available: "):
        source(str(folder)).splits({"train": "validate"}, {})
    next(folder.glob("valid*")).unlink()
    assert [len(list(rows)) for rows in source(str(folder)).splits({}, {}).values()] == [36, 4]


def test_rows_without_declared_features_are_unchanged(datasets, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "x"}\n' * 10)
    splits = source(str(tmp_path)).splits({}, {})
    assert [row for rows in splits.values() for row in rows] == [{"text": "a", "label": "x"}] * 10


def test_a_tenth_of_each_label_is_held_out_of_a_single_split_sorted_by_label(datasets, tmp_path):
    rows = [{"text": str(i), "kind": "abcd"[i // 100]} for i in range(400)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, validation = source(str(tmp_path)).splits({}, {"label": "kind"}).values()
    held_out = Counter(row["kind"] for row in validation)
    assert sum((Counter(row["kind"] for row in train), held_out), Counter()) == dict.fromkeys("abcd", 100)
    assert held_out.keys() == set("abcd") and len(set(held_out.values())) == 1 and 5 < held_out["d"] < 15


def test_csv_fields_are_the_text_of_the_file(datasets, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"{i}.50,0{i % 2}\n" for i in range(20)))
    rows = list(source(str(tmp_path)).splits({"train": "train"}, {})["train"])
    assert rows[:2] == [{"text": "0.50", "label": "00"}, {"text": "1.50", "label": "01"}]


def test_image_folders_have_the_classes_of_files_or_are_refused(datasets, tmp_path):
    from PIL import Image

    from data.sources.files import Files

    def images(*folders: str) -> str:
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True)
            for i in range(4):
                Image.new("L", (3, 2), i).save(tmp_path / folder / f"{i}.png")
        return str(tmp_path / folders[0].partition("/")[0])

    flat = images("flat/day", "flat/night")
    labels = lambda found: [row["label"] for row in found.splits({"train": "train"}, {})["train"]]
    assert sorted(labels(source(flat))) == ["day"] * 4 + ["night"] * 4
    assert set(Files(flat).rows({}).classes.values()) == {"day", "night"}
    nested = images("nested/day/monday", "nested/night/monday")
    with pytest.raises(DataError, match=rf"would be 'monday', its innermost folder; use files:{nested} for the label 'day'"):
        source(nested).splits({}, {})


def test_words_for_missing_values_in_csv_are_words(datasets, tmp_path):
    words = ["NA", "None", "null", "nan", "up", ""]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"a {word},{word}\n" for word in words))
    assert [row["label"] for row in source(str(tmp_path)).splits({"train": "train"}, {})["train"]] == words


def test_arrays_keep_the_type_of_their_feature(datasets, tmp_path):
    features = {"image": datasets.Array2D((1, 2), "uint16"), "numbers": datasets.List(datasets.Value("uint8"))}
    rows = datasets.Dataset.from_list([{"image": [[1, 2]], "numbers": [3]}], features=datasets.Features(features))
    rows.to_parquet(tmp_path / "train.parquet")
    (row,) = source(str(tmp_path)).splits({"train": "train"}, {})["train"]
    assert row["image"].dtype == np.uint16 and row["image"].tolist() == [[1, 2]] and row["numbers"].dtype == np.uint8


def test_a_column_of_mixed_types_is_unchanged(datasets, tmp_path):
    texts = ["a", "b", 5, ["c"], "d"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert [row["text"] for row in source(str(tmp_path)).splits({"train": "train"}, {})["train"]] == texts


def test_the_stamp_of_a_folder_changes_with_its_files(folder):
    stamp = source(str(folder)).stamp()
    assert list(stamp) == ["train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"]
    file = next(folder.glob("valid*"))
    before = os.stat(file)
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = source(str(folder)).stamp()
    assert [part for part in stamp if stamp[part] != changed[part]] == ["validation-00000-of-00001.parquet"]


def test_read_errors_are_one_line(folder, monkeypatch):
    import datasets

    def unreachable(*_):
        raise ConnectionError("Couldn't reach the Hub")

    path = next(folder.glob("train*"))
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\0" * 400 + content[404:])
    monkeypatch.setattr(datasets, "load_dataset_builder", datasets.load_dataset_builder)
    messages = []
    for name, damage in ((str(folder), None), (f"{folder}s", None), ("./nowhere", None), ("imdb", unreachable)):
        if damage:
            monkeypatch.setattr(datasets, "load_dataset_builder", damage)
        with pytest.raises(DataError) as caught:
            list(source(name).splits({}, {})["train"])
        messages.append(str(caught.value))
    assert "reading failed: " in messages[0]
    assert messages[1].endswith(f"no such folder; did you mean {folder}?")
    assert messages[2].endswith("no such folder")
    assert messages[3].endswith("hf:imdb: not in the local cache, and the Hub cannot be reached")
    assert not any("\n" in line for line in messages)


def test_two_part_names_are_tried_as_owner_and_name_then_as_name_and_config(datasets, monkeypatch):
    from datasets.exceptions import DatasetNotFoundError

    requested = []

    def builder(name, config):
        requested.append((name, config))
        raise DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    for name in ("glue/sst2", "nyu-mll/glue/sst2", "imdb"):
        with pytest.raises(DataError, match=f"hf:{name}: Dataset '.*' doesn't exist on the Hub"):
            source(name).stamp()
    assert requested == [("glue/sst2", None), ("glue", "sst2"), ("nyu-mll/glue", "sst2"), ("imdb", None)]


def test_a_missing_library_is_reported_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"hf:imdb: datasets is not installed; pip install 'fmodels\[hf\]'"):
        source("imdb").splits({}, {})
    with pytest.raises(DataError, match="the name is missing; use hf:OWNER/NAME"):
        source("")
