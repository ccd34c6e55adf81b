"""The source `files`: every format, on real data where possible, and the assignment of rows to splits."""

import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import time
import zlib

import numpy as np
import pytest
import soundfile

from data.errors import DataError
from data.sources.files import Files
from tests.data.sources.files.made_files import (
    column,
    error_message,
    image_bytes,
    read_all,
    read_split,
    wav_bytes,
    write_archive,
    write_files,
)

REAL = os.environ.get("FMODELS_DATA", "")
real = pytest.mark.skipif(not REAL, reason="FMODELS_DATA is not set")


def sizes(path):
    return {name: sum(1 for _ in rows) for name, rows in Files(f"{REAL}/{path}").splits({}, {}).items()}


# Published datasets


@real
def test_published_mnist():
    assert sizes("mnist") == {"train": 60_000, "test": 10_000}
    first = next(iter(Files(f"{REAL}/mnist").splits({}, {})["train"]))
    assert first["image"].shape == (28, 28, 1) and first["image"].dtype == np.uint8 and first["label"] == "5"
    assert set(column(read_split(f"{REAL}/mnist/t10k*", "test"), "label")) == set("0123456789")


@real
def test_published_sst2():
    assert sizes("sst2") == {"train": 67_349, "validation": 872, "test": 1_821}
    assert read_split(f"{REAL}/sst2", "validation")[0] == {"sentence": "one long string of cliches .", "label": "0"}


@real
def test_published_multi30k():
    raw = "multi30k/data/task1/raw"
    for language in ("en", "de", "fr"):
        assert sizes(f"{raw}/*.{language}.gz") == {"train": 29_000, "validation": 1_014, "test": 1_000}
    first = {"text": "Two young, White males are outside near many bushes.", "document": 0}
    assert read_split(f"{REAL}/{raw}/*.en.gz")[0] == first


@real
def test_published_spoken_digits():
    path = f"{REAL}/fsdd/fsdd.tar.gz"
    with tarfile.open(path) as tar:
        expected = _by_scipy(tar.extractfile("fsdd/recordings/7_jackson_32.wav").read())
        number = [name for name in tar.getnames() if name.endswith(".wav")].index("fsdd/recordings/7_jackson_32.wav")
    rows = read_all(path)
    assert len(rows) == 3_000 and set(column(rows, "label")) == set("0123456789") and set(column(rows, "sample_rate")) == {8000}
    assert rows[number]["label"] == "7" and np.array_equal(rows[number]["audio"], expected)


def _by_scipy(data):
    from scipy.io import wavfile

    return wavfile.read(io.BytesIO(data))[1].astype(np.float32) / 2**15


@pytest.mark.slow
@real
def test_cifar10_from_a_tar_archive():
    splits = Files(f"{REAL}/cifar10/cifar10_jpg.tar.xz").splits({"train": "train", "validation": "test[:1100]"}, {})
    assert {row["label"] for row in splits["validation"]} == {"airplane", "automobile"}
    first = next(iter(splits["train"]))
    assert first["image"].startswith(b"\xff\xd8\xff") and first["label"] == "airplane"


@real
def test_published_movielens_and_wikitext():
    assert read_all(f"{REAL}/ml-latest-small/movies.csv")[0]["title"] == "Toy Story (1995)"
    with open(f"{REAL}/ml-latest-small/ratings.csv") as file:
        assert read_all(f"{REAL}/ml-latest-small/ratings.csv") == list(csv.DictReader(file))
    assert list(Files(f"{REAL}/wikitext2").splits({}, {})) == ["validation", "test"]
    assert read_all(f"{REAL}/wikitext2/valid.txt")[0]["text"] == "= Homarus gammarus ="


# Formats


def test_text_has_one_document_per_line_or_blank_lines_between_documents(tmp_path):
    write_files(
        tmp_path, {"lines.txt": "\ufeffone\r\ntwo\nthree", "blocks.txt": "\n one\ntwo\n\n \nthree\n\nfour\n\n", "a.en": "x\n\ny"}
    )
    assert column(read_all(tmp_path / "lines.txt"), "text") == ["one", "two", "three"]
    assert read_all(tmp_path / "blocks.txt") == [
        {"text": "one\ntwo", "document": 0},
        {"text": "three", "document": 1},
        {"text": "four", "document": 2},
    ]
    assert column(read_all(tmp_path / "a.en"), "text") == ["x", "y"]
    assert column(read_all(f"{tmp_path}/*.txt"), "document") == list(range(6))  # unique across files


def test_records_keep_their_fields_and_types(tmp_path):
    rows = [{"text": "a", "label": 3, "score": 0.5, "tags": ["x"]}, {"text": "é\u2028b", "label": 4, "score": 1.5, "tags": []}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert read_all(tmp_path / "a.jsonl") == rows
    write_files(tmp_path, {"a.csv": 'text,label\r\n"a, ""b""\r\nc",1\r\n\r\nd,\n', "a.tsv": 'text\tlabel\n"a\t1\nb"\t\n'})
    assert read_all(tmp_path / "a.csv") == [{"text": 'a, "b"\nc', "label": "1"}, {"text": "d", "label": ""}]
    assert read_all(tmp_path / "a.tsv") == [{"text": '"a', "label": "1"}, {"text": 'b"', "label": ""}]


def test_parquet_keeps_its_types(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    duplicate = pyarrow.table([[1], [2]], names=["x", "x"])
    pyarrow.parquet.write_table(duplicate, tmp_path / "twice.parquet")
    assert "twice.parquet: the header repeats 'x'" in error_message(tmp_path / "twice.parquet", train="*")
    late = pyarrow.table({"x": pyarrow.array([2**40], "timestamp[s]")})
    pyarrow.parquet.write_table(late, tmp_path / "late.parquet", version="2.6", coerce_timestamps=None)
    assert "late.parquet: a value cannot be converted to Python: " in error_message(tmp_path / "late.parquet", train="*")
    rows = [{"text": f"row {i}", "label": i, "score": i / 2, "bytes": bytes([i % 256]), "none": None} for i in range(1000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=300)
    assert read_all(tmp_path / "a.parquet") == rows
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (whole[:-100], whole[:200] + bytes(200) + whole[400:]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        assert "damaged" in error_message(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_compressed_files_round_trip_and_truncation_is_reported_after_the_good_rows(tmp_path, suffix):
    if suffix == ".zst":
        zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
        pack = lambda data: b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:5000], data[5000:]))
    else:
        pack = {".gz": gzip.compress, ".xz": lzma.compress}[suffix]
    lines = [f"{i} {i * 7919 % 10007}" for i in range(20_000)]
    packed = pack("\n".join(lines).encode())
    write_files(tmp_path, {f"whole.txt{suffix}": packed, f"cut.txt{suffix}": packed[:-20], "later.txt": "later\n"})
    assert column(read_all(tmp_path / f"whole.txt{suffix}"), "text") == lines
    *rows, bad, later = read_split(tmp_path, train="[cl]*")
    assert bad.where == str(tmp_path / f"cut.txt{suffix}") and "truncated" in bad.what and later["text"] == "later"
    assert len(rows) > 1000 and column(rows, "text") == lines[: len(rows)]


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "webp"])
def test_the_folder_of_an_image_is_the_label(tmp_path, kind):
    data = image_bytes(kind)
    names = [f"{split}/{label}/license {i}" for split in ("train", "test") for label in ("cat", "dog") for i in range(2)]
    files = {f"{name}.{kind}": data for name in names}
    write_files(tmp_path / "photos", files | {"README.md": "", ".hidden": ""})
    for path in (tmp_path / "photos", write_archive(tmp_path / "a.tar", files), write_archive(tmp_path / "a.tgz", files, "w:gz")):
        assert list(Files(str(path)).splits({}, {})) == ["train", "test"]
        assert read_split(path, "test") == [{"label": label, "image": data} for label in ("cat", "cat", "dog", "dog")]
        assert column(read_split(path, train="test/dog/*"), "label") == ["dog", "dog"]
    assert read_all(tmp_path / "photos/test/cat") == [{"image": data}] * 2  # a single folder is not a class


def classes_of(path):
    """Return {split: sorted classes of its images}; "" for an image without a class."""
    splits = Files(str(path)).splits({}, {})
    return {split: sorted({row.get("label", "") for row in rows}) for split, rows in splits.items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["day/monday/1.png", "day/2.png", "night/tuesday/3.png"], ["day", "night"]),
        (["photos/day/monday/1.png", "photos/night/tuesday/2.png"], ["day", "night"]),
        (["train/day/monday/1.png", "train/night/tuesday/2.png"], ["day", "night"]),
        (["all/train/day/1.png", "all/train/night/a/b/2.png"], ["day", "night"]),
        (["day/train/1.png", "night/train/2.png"], ["day", "night"]),
        (["day/monday/1.png", "day/tuesday/2.png"], ["monday", "tuesday"]),
        (["1.png", "day/1.png", "night/2.png"], ["", "day", "night"]),
        (["1.png", "day/1.png"], [""]),
        (["day/1.png", "day/2.png"], [""]),
    ],
)
def test_the_folder_at_the_top_is_the_class(tmp_path, names, expected):
    files = {name: image_bytes("png") for name in names} | {f"{name[:-5]}9.png": image_bytes("png") for name in names}
    for path in (write_files(tmp_path / "folder", files), write_archive(tmp_path / "a.tar", files)):
        assert set().union(*classes_of(path).values()) == set(expected)


def test_an_archive_is_not_a_class(tmp_path):
    for name in ("one", "two"):
        files = {f"{label}/{i}.png": image_bytes("png") for label in ("cat", "dog") for i in range(2)}
        write_archive(tmp_path / f"{name}.tar", files)
    assert classes_of(tmp_path) == {"train": ["cat", "dog"], "validation": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("width", "values"), [(1, (0, 128, 255)), *((w, (-(2 ** (8 * w - 1)), 0, 2 ** (8 * w - 1) - 1)) for w in (2, 3, 4))]
)
def test_wav_samples_match_the_pcm_data(tmp_path, width, values):
    files = {"3_a.wav": wav_bytes(values, width), "4_b.wav": wav_bytes([v for v in values for _ in "lr"], width, channels=2)}
    for path in (write_files(tmp_path / "sounds", files), write_archive(tmp_path / "sounds.tar", files)):
        rows = read_all(path)
        assert column(rows, "label") == ["3", "4"] and column(rows, "sample_rate") == [8000, 8000]
        for row in rows:
            assert row["audio"].dtype == np.float32 and row["audio"].shape == (3,)
            assert np.allclose(row["audio"], [-1, 0, 1], atol=2.0 ** (1 - 8 * width)) and abs(row["audio"]).max() <= 1
    files = {"yes/a_0.wav": wav_bytes([1]), "no/a_0.wav": wav_bytes([1])}
    assert column(read_all(write_files(tmp_path / "classes", files)), "label") == ["no", "yes"]


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAVEX", "PCM_16"), ("WAVEX", "FLOAT"), ("RF64", "PCM_24")]
)
def test_float_and_extensible_wav_files_are_read(tmp_path, format, subtype):
    samples = np.array([[-1, 0], [0.5, 0.25], [0.75, -0.75]], np.float32)
    soundfile.write(tmp_path / "3_a.wav", samples, 16_000, format=format, subtype=subtype)
    (row,) = read_all(tmp_path / "3_a.wav")
    assert row["audio"].dtype == np.float32 and np.allclose(row["audio"], [-0.5, 0.375, 0], atol=1e-4)
    assert row["sample_rate"] == 16_000 and row["label"] == "3"


def test_remote_files_are_read_like_local_files(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    files = {"train.csv": b"a,b\n1,2\n", "dev.csv.gz": gzip.compress(b"a,b\n3,4\n"), "more/x.jsonl": b'{"a": 1}'}
    for name, data in files.items():
        memory.pipe(f"/remote/{name}", data)
    url = "memory://remote"
    assert read_all(f"{url}/train.csv") == read_split(f"{url}/*.csv*") == [{"a": "1", "b": "2"}]
    assert read_split(f"{url}/*.csv*", "validation") == read_split(url, train="dev.csv.gz") == [{"a": "3", "b": "4"}]
    assert read_all(f"{url}/more") == [{"a": 1}]
    before = Files(url).stamp()
    assert set(before) == {f"memory:///remote/{name}" for name in files} and before == Files(url).stamp()
    memory.pipe("/remote/train.csv", b"a,b\n1,3\n")
    assert [name for name, state in Files(url).stamp().items() if before[name] != state] == ["memory:///remote/train.csv"]
    assert "did you mean train.csv?" in error_message(f"{url}/trian.csv") and "nowhere" in error_message("nowhere://x")


# Splits


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "train.tsv": "train",
        "train-00000-of-00002.tsv": "train",
        "val.tsv": "validation",
        "dev_2.tsv": "validation",
        "valid/a.tsv": "validation",
        "t10k-a.tsv": "test",
        "test_2016_flickr.tsv": "test",
        "test/train.tsv": "test",
    }.items(),
)
def test_file_names_determine_the_split(tmp_path, name, expected):
    assert list(Files(str(write_files(tmp_path, {name: "a\nb\n"}))).splits({}, {})) == [expected]


def test_a_tenth_of_each_label_is_held_out_and_train_keeps_every_label(tmp_path):
    rows = [{"text": str(i), "label": "rare" if i in (500, 900) else "often"} for i in range(1000)] + [
        {"text": "x", "label": "one"}
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, held = read_split(tmp_path / "a.jsonl"), read_split(tmp_path / "a.jsonl", "validation")
    assert sorted(column(train + held, "text")) == sorted(column(rows, "text")) and held == read_split(
        tmp_path / "a.jsonl", "validation"
    )
    assert column([row for row in held if row["label"] == "rare"], "text") == ["900"] and {"text": "x", "label": "one"} in train
    often = column([row for row in rows if row["label"] == "often"], "text")
    expected = [text for k, text in enumerate(often) if k == 1 or (k and zlib.crc32(str(k).encode()) % 10 == 0)]
    assert column([row for row in held if row["label"] == "often"], "text") == expected and 80 < len(expected) < 120


def test_held_out_rows_use_the_mapped_label_and_document_fields(tmp_path):
    rows = [{"module": f"m{i % 40}", "sentiment": "rare" if i > 197 else "often"} for i in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Files(str(tmp_path / "rows.jsonl"))
    by_label = {
        name: column(found, "sentiment").count("rare") for name, found in source.splits({}, {"label": "sentiment"}).items()
    }
    assert by_label == {"train": 1, "validation": 1}
    by_document = {name: column(found, "module") for name, found in source.splits({}, {"document": "module"}).items()}
    train, held = by_document.values()  # each document's rows are not consecutive
    assert set(train).isdisjoint(held) and sorted(train + held) == sorted(column(rows, "module"))
    assert {held.count(module) for module in held} == {5}


def test_one_of_two_documents_is_held_out_and_rows_without_a_document_are_independent(tmp_path):
    (tmp_path / "a.csv").write_text("document,x\na,1\na,2\nb,3\na,4\nb,5\n")
    assert [column(read_split(tmp_path / "a.csv", name), "x") for name in ("train", "validation")] == [
        ["1", "2", "4"],
        ["3", "5"],
    ]
    (tmp_path / "b.csv").write_text("document,x\n" + ",1\n" * 100)
    assert 80 < len(read_split(tmp_path / "b.csv")) < 100
    (tmp_path / "c.csv").write_text("document,x\n" + "a,1\n" * 100)
    with pytest.raises(DataError, match="only one document, so none can be held out"):
        read_split(tmp_path / "c.csv", "validation")


def test_a_star_matches_a_name_but_not_folders(tmp_path):
    path = write_files(tmp_path, {"a.csv": "a\n1\n", "more/b.csv": "a\n2\n"})
    for pattern, expected in {"*.csv": ["1"], "more/*.csv": ["2"], "**/*.csv": ["1", "2"]}.items():
        assert column(Files(str(path)).splits({"train": pattern}, {})["train"], "a") == expected


@pytest.mark.parametrize(
    ("train", "validation"),
    [("*.csv", "a.csv"), ("a.csv", "a.csv[:1]"), ("**/*.csv", "more/*"), ("b.csv+a.csv", "a.csv"), ("train", "a.csv")],
)
def test_splits_that_share_a_file_are_refused(tmp_path, train, validation):
    path = write_files(tmp_path, {"a.csv": "a\n1\n", "b.csv": "a\n1\n", "more/b.csv": "a\n2\n"})
    message = f"data.splits: train={train} and validation={validation} overlap"
    assert message in error_message(path, train=train, validation=validation)
    assert "overlap" not in error_message(path, train="zzz")
    Files(str(path)).splits({"train": "a.csv[:1]", "validation": "a.csv[1:]", "test": "more/b.csv"}, {})


def test_data_splits_accepts_splits_files_globs_and_slices(tmp_path):
    path = write_files(
        tmp_path, {"train.csv": "a\n1\n2\n3\n4\n", "other.csv": "a\n5\n6\n", "more/x.csv": "a\n7\n", "junk.bin": "?"}
    )
    numbers = lambda **wanted: [column(rows, "a") for rows in Files(str(path)).splits(wanted, {}).values()]
    assert numbers(train="train[:50%]", validation="other.csv", test="more/*") == [["1", "2"], ["5", "6"], ["7"]]
    assert numbers(train="train.csv[1:]+other.csv[:1]") == [["2", "3", "4", "5"]]
    for wrong, message in {"othr.csv": "did you mean other.csv", "mor/*": "no file 'mor/*'", "*": "unknown format"}.items():
        assert message in error_message(path, train=wrong)


def test_the_stamp_changes_with_a_file(tmp_path):
    path = write_files(tmp_path, {"a.csv": "x\n1\n", "b.csv": "x\n2\n"})
    before = Files(str(path)).stamp()
    assert set(before) == {str(path / "a.csv"), str(path / "b.csv")} and before == Files(str(path)).stamp()
    os.utime(path / "b.csv", ns=(0, 1))
    after = Files(str(path)).stamp()
    assert [name for name in after if after[name] != before[name]] == [str(path / "b.csv")]


def test_the_stamp_changes_with_a_file_of_the_same_size_and_modification_time(tmp_path):
    path = write_files(tmp_path / "rows", {"a.csv": "x\n1\n"}) / "a.csv"
    moved = write_files(tmp_path, {"new.csv": "x\n2\n"}) / "new.csv"
    for replace in (lambda: path.write_text("x\n3\n"), lambda: os.replace(moved, path)):
        os.utime(path, ns=(0, 1))
        before = Files(str(path)).stamp()
        time.sleep(0.05)  # several ticks of the clock of the file system
        replace()
        os.utime(path, ns=(0, 1))
        assert path.stat().st_size == 4 and path.stat().st_mtime_ns == 1 and Files(str(path)).stamp() != before


def test_rows_are_streamed_and_not_held_in_memory(tmp_path):
    import tracemalloc

    with gzip.open(tmp_path / "a.jsonl.gz", "wt", compresslevel=1) as file:
        file.writelines(json.dumps({"text": f"{i} " * 50}) + "\n" for i in range(50_000))
    rows = Files(str(tmp_path)).splits({"train": "*"}, {})["train"]
    tracemalloc.start()
    assert sum(1 for _ in rows) == 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
