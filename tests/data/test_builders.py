"""Our dataset builders, and `data prepare`."""

import importlib.util
import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data import builders
from data.errors import DataError
from data.prepare import prepare
from data.sources.tfds import source
from train.errors import UserError
from train.verbs import data as verb

published = pytest.mark.skipif(not os.environ.get("FMODELS_DATA"), reason="FMODELS_DATA is not set")


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch) -> Path:
    """The folder to which TFDS writes. $FMODELS_DATA is unchanged."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """An empty folder for manually downloaded files; $FMODELS_DATA is unset."""
    monkeypatch.delenv("FMODELS_DATA", raising=False)
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def read(name: str, *splits: str) -> dict[str, list]:
    return {split: list(rows) for split, rows in source(name).splits({split: split for split in splits}, {}).items()}


def test_our_builder_names_are_unique():
    import tensorflow_datasets as tfds

    builders.known()
    assert not set(builders.own()) & set(tfds.list_builders(with_community_datasets=False))
    assert set(builders.own()) < set(builders.known())
    for name in builders.own():
        builder = importlib.import_module(f"data.builders.{name}").Builder
        assert builder.name == name and builder.MANUAL_DOWNLOAD_INSTRUCTIONS


@published
def test_fsdd_is_complete_and_its_audio_matches_the_files(made):
    assert prepare("fsdd") == made / "fsdd" / "1.0.0"
    rows = read("fsdd", "train", "test")
    assert Counter(row["label"] for row in rows["train"]) == {str(digit): 270 for digit in range(10)}
    assert Counter(row["speaker"] for row in rows["test"]) == {
        speaker: 50 for speaker in {row["speaker"] for row in rows["train"]}
    }
    archive = builders.raw(Path(os.environ["FMODELS_DATA"]), "fsdd.tar.gz")
    name, content = next((name, content) for name, content in builders.unpacked(archive) if name.endswith("_0.wav"))
    samples = np.frombuffer(content[44:], "<i2")
    digit, speaker, _ = Path(name).name.split("_")
    found = [row for row in rows["test"] if np.array_equal(row["audio"], samples)]
    assert [(row["label"], row["speaker"], row["sample_rate"], row["audio"].dtype) for row in found] == [
        (digit, speaker, 8000, np.int16)
    ]


@published
def test_clinc150_has_balanced_intents_and_separate_out_of_scope_splits():
    prepare("clinc150")
    rows = read("clinc150", "train", "validation", "test", "train_oos", "validation_oos", "test_oos")
    assert [len(split) for split in rows.values()] == [15_000, 3_000, 4_500, 100, 100, 1_000]
    for split, each in (("train", 100), ("validation", 20), ("test", 30)):
        counts = Counter(row["label"] for row in rows[split])
        assert len(counts) == 150 and set(counts.values()) == {each}
    assert {(row["label"], row["domain"]) for row in rows["test_oos"]} == {("oos", "oos")}
    assert {"text": "how would you say fly in italian", "label": "translate", "domain": "travel"} in rows["test"]
    assert list(source("clinc150").splits({}, {})) == ["train", "validation", "test"]


@published
def test_wikitext2_keeps_the_order_of_lines_and_articles():
    prepare("wikitext2")
    for split, file, articles in (("validation", "valid.txt", 60), ("test", "test.txt", 60)):
        rows = read("wikitext2", split)[split]
        lines = (Path(os.environ["FMODELS_DATA"]) / "wikitext2" / file).read_text("utf-8").splitlines()
        assert [row["text"] for row in rows] == [line.strip() for line in lines if line.strip()]
        documents = [document for document, _ in itertools.groupby(row["document"] for row in rows)]
        assert len(documents) == len(set(documents)) == articles
    with pytest.raises(DataError, match=r"cannot infer .*; available: validation, test"):  # train.txt is missing
        source("wikitext2").splits({}, {})


@published
def test_wnut17_has_all_sentences_and_entities():
    prepare("wnut17")
    rows = read("wnut17", "train", "validation", "test")
    assert [len(split) for split in rows.values()] == [3_394, 1_009, 1_287]
    entities = {split: sum(tag.startswith("B-") for row in found for tag in row["tags"]) for split, found in rows.items()}
    assert entities == {"train": 1_975, "validation": 836, "test": 1_079}
    assert ("Empire", "B-location") in [pair for row in rows["train"] for pair in zip(row["tokens"], row["tags"], strict=True)]


@published
def test_xquad_json_has_the_same_questions_per_language_and_correct_answer_offsets():
    prepare("xquad_json")
    rows = read("xquad_json", "en", "de", "es")
    assert {len(split) for split in rows.values()} == {1_190}
    assert len({frozenset(row["id"] for row in split) for split in rows.values()}) == 1
    for split in rows.values():
        assert len({row["context"] for row in split}) == 240
        assert all(row["context"][row["start"] :].startswith(row["answer"]) for row in split)


@pytest.mark.slow
@published
def test_movielens_csv_has_as_many_ratings_as_its_readme_says():
    prepare("movielens_csv")
    rows = read("movielens_csv", "train")["train"]
    assert len(rows) == 100_023 and len({row["user"] for row in rows}) == 706 and len({row["movie"] for row in rows}) == 8_552
    first = {"user": 1, "movie": 6, "rating": 2.0, "timestamp": 980730861}
    assert {name: rows[0][name] for name in first} == first and rows[0]["title"] == "Heat (1995)"


def test_cifar10_jpg_keeps_the_encoded_images(raw, made):
    import io
    import tarfile

    from PIL import Image

    def jpeg(value: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (value, 0, 0)).save(file, "jpeg")
        return file.getvalue()

    content = {f"{split}/{label}/0001.jpg": jpeg(i) for i, (split, label) in enumerate([("test", "cat"), ("train", "dog")])}
    (raw / "cifar10").mkdir()
    with tarfile.open(raw / "cifar10" / "cifar10_jpg.tar.xz", "w:xz") as archive:
        for name, image in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(image)
            archive.addfile(member, io.BytesIO(image))
    prepare("cifar10_jpg", raw)
    assert read("cifar10_jpg", "train", "test") == {
        "train": [{"image": content["train/dog/0001.jpg"], "label": "dog"}],
        "test": [{"image": content["test/cat/0001.jpg"], "label": "cat"}],
    }


@pytest.mark.parametrize(
    "name, message",
    [
        ("mnits", r"unknown dataset 'mnits'; did you mean mnist\?"),
        ("glue/sst3", r"glue has no config 'sst3'; did you mean sst2\?"),
        ("mnist:9.9.9", "only: 3.0.1"),
        ("fsdd", r"raw: no fsdd.tar.gz in this folder or its subfolders; give its folder with --from FOLDER"),
        ("wikitext2", "no train.txt, valid.txt, test.txt in this folder; at least one is needed"),
    ],
)
def test_errors_of_prepare_are_one_line(raw, name, message):
    (raw / "other").write_text("")
    with pytest.raises(DataError, match=message) as caught:
        prepare(name, raw)
    assert "\n" not in str(caught.value)


def test_files_to_download_manually_are_named(raw):
    with pytest.raises(DataError, match=r"download these files manually, .* --from FOLDER: fsdd\.tar\.gz, containing"):
        prepare("fsdd")
    with pytest.raises(DataError, match="nowhere: no such folder; give the folder of the files with --from FOLDER"):
        prepare("fsdd", raw / "nowhere")


@published
def test_a_builder_that_needs_tensorflow_reports_what_to_install():
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed")
    with pytest.raises(DataError, match=r"tfds:mnist: TFDS needs TensorFlow to prepare .*pip install 'fmodels\[tfds-prepare\]'"):
        prepare("mnist", Path(os.environ["FMODELS_DATA"]) / "mnist")


def test_a_missing_network_is_reported_with_the_address(raw, monkeypatch):
    import requests

    def get(self, url, **_):
        raise requests.ConnectionError(request=requests.Request("GET", url).prepare())

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(DataError, match=r"tiny_shakespeare: cannot reach https://.*input.txt; connect to the network"):
        prepare("tiny_shakespeare")


def test_data_prepare_writes_a_readable_dataset(raw, made, capsys):
    (raw / "wikitext2").mkdir()
    (raw / "wikitext2" / "train.txt").write_text(" \n = A title = \n \n A line . \n")
    assert verb.main(["prepare", "tfds:wikitext2", "--from", str(raw)]) == 0
    assert capsys.readouterr().out == f"{made / 'wikitext2' / '1.0.0'}\n"
    assert verb.main(["prepare", "tfds:wikitext2"]) == 0  # already prepared
    expected = [{"text": text, "document": "1. A title"} for text in ("= A title =", "A line .")]
    assert read("wikitext2", "train") == {"train": expected}


def test_wrong_arguments_of_the_verb_are_reported():
    with pytest.raises(UserError, match="unknown subcommand data prepar; did you mean prepare"):
        verb.main(["prepar"])
    with pytest.raises(UserError, match="data prepare digits: only tfds:NAME can be prepared"):
        verb.main(["prepare", "digits"])
    with pytest.raises(UserError, match=r"SUBCOMMAND is missing: inspect or prepare; fmodels data --help describes them"):
        verb.main([])
