"""Files: every format on real data where there is some, and every way in which a file can be bad."""

import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import wave
import zlib

import numpy as np
import pytest

from data.errors import DataError
from data.sources import WHERE, Bad, find
from data.sources.files import Files

pytestmark = pytest.mark.quick

REAL = os.environ.get("FMODELS_DATA", "")
IDX = {3: bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1)), 1: bytes((0, 0, 8, 1, 0, 0, 0, 2))}  # two images of one pixel
real = pytest.mark.skipif(not REAL, reason="FMODELS_DATA is not set")


def split(path, name="train", **wanted):
    rows = Files(str(path)).splits(wanted, {"label": "label", "document": "document"})[name]
    return [{k: v for k, v in row.items() if k != WHERE} if isinstance(row, dict) else row for row in rows]


def every(path):
    """All rows of the files at `path`, in their order."""
    return split(path, train="**")


def of(rows, field):
    return [row[field] for row in rows]


def sizes(path):
    return {name: sum(1 for _ in rows) for name, rows in Files(f"{REAL}/{path}").splits({}, {}).items()}


def said(path, **wanted):
    """What the one bad row says, or else the error."""
    try:
        return next(f"{row.where}: {row.what}" for row in Files(str(path)).splits(wanted, {})["train"] if isinstance(row, Bad))
    except DataError as error:
        return str(error)


def picture(kind="jpeg"):
    from PIL import Image

    out = io.BytesIO()
    Image.effect_noise((24, 24), 60).convert("RGB").save(out, kind)
    return out.getvalue()


def sound(values, width=2, channels=1):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels), file.setsampwidth(width), file.setframerate(8000)
        file.writeframes(b"".join(int(value).to_bytes(width, "little", signed=width > 1) for value in values))
    return out.getvalue()


def folder(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def archive(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


# What others have published


@real
def test_mnist_as_it_is_published():
    assert sizes("mnist") == {"train": 60_000, "test": 10_000}
    first = next(iter(Files(f"{REAL}/mnist").splits({}, {})["train"]))
    assert first["image"].shape == (28, 28, 1) and first["image"].dtype == np.uint8 and first["label"] == "5"
    assert set(of(split(f"{REAL}/mnist/t10k*", "test"), "label")) == set("0123456789")


@real
def test_sst2_as_it_is_published():
    assert sizes("sst2") == {"train": 67_349, "validation": 872, "test": 1_821}
    assert split(f"{REAL}/sst2", "validation")[0] == {"sentence": "one long string of cliches .", "label": "0"}


@real
def test_multi30k_as_it_is_published():
    raw = "multi30k/data/task1/raw"
    for language in ("en", "de", "fr"):
        assert sizes(f"{raw}/*.{language}.gz") == {"train": 29_000, "validation": 1_014, "test": 1_000}
    first = {"text": "Two young, White males are outside near many bushes.", "document": 0}
    assert split(f"{REAL}/{raw}/*.en.gz")[0] == first


@real
def test_spoken_digits_as_they_are_published():
    path = f"{REAL}/fsdd/fsdd.tar.gz"
    with tarfile.open(path) as tar:
        expected = _by_scipy(tar.extractfile("fsdd/recordings/7_jackson_32.wav").read())
        number = [name for name in tar.getnames() if name.endswith(".wav")].index("fsdd/recordings/7_jackson_32.wav")
    rows = every(path)
    assert len(rows) == 3_000 and set(of(rows, "label")) == set("0123456789") and set(of(rows, "sample_rate")) == {8000}
    assert rows[number]["label"] == "7" and np.array_equal(rows[number]["audio"], expected)


def _by_scipy(data):
    from scipy.io import wavfile

    return wavfile.read(io.BytesIO(data))[1].astype(np.float32) / 2**15


@real
def test_cifar10_from_its_archive():
    splits = Files(f"{REAL}/cifar10/cifar10_jpg.tar.xz").splits({"train": "train", "validation": "test[:1100]"}, {})
    assert {row["label"] for row in splits["validation"]} == {"airplane", "automobile"}
    first = next(iter(splits["train"]))
    assert first["image"].startswith(b"\xff\xd8\xff") and first["label"] == "airplane"


@real
def test_movielens_and_wikitext_as_they_are_published():
    assert every(f"{REAL}/ml-latest-small/movies.csv")[0]["title"] == "Toy Story (1995)"
    with open(f"{REAL}/ml-latest-small/ratings.csv") as file:
        assert every(f"{REAL}/ml-latest-small/ratings.csv") == list(csv.DictReader(file))
    assert list(Files(f"{REAL}/wikitext2").splits({}, {})) == ["validation", "test"]
    assert every(f"{REAL}/wikitext2/valid.txt")[0]["text"] == "= Homarus gammarus ="


# What each format is


def test_a_text_is_a_document_a_line_or_between_blank_lines(tmp_path):
    folder(
        tmp_path, {"lines.txt": "\ufeffone\r\ntwo\nthree", "blocks.txt": "\n one\ntwo\n\n \nthree\n\nfour\n\n", "a.en": "x\n\ny"}
    )
    assert of(every(tmp_path / "lines.txt"), "text") == ["one", "two", "three"]
    assert every(tmp_path / "blocks.txt") == [
        {"text": "one\ntwo", "document": 0},
        {"text": "three", "document": 1},
        {"text": "four", "document": 2},
    ]
    assert of(every(tmp_path / "a.en"), "text") == ["x", "y"]
    assert of(every(f"{tmp_path}/*.txt"), "document") == list(range(6))  # which joins rows, and never those of two files


def test_records_keep_their_fields_and_types(tmp_path):
    rows = [{"text": "a", "label": 3, "score": 0.5, "tags": ["x"]}, {"text": "é\u2028b", "label": 4, "score": 1.5, "tags": []}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert every(tmp_path / "a.jsonl") == rows
    folder(tmp_path, {"a.csv": 'text,label\r\n"a, ""b""\r\nc",1\r\n\r\nd,\n', "a.tsv": 'text\tlabel\n"a\t1\nb"\t\n'})
    assert every(tmp_path / "a.csv") == [{"text": 'a, "b"\nc', "label": "1"}, {"text": "d", "label": ""}]
    assert every(tmp_path / "a.tsv") == [{"text": '"a', "label": "1"}, {"text": 'b"', "label": ""}]


def test_parquet_keeps_its_types(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    twice = pyarrow.table([[1], [2]], names=["x", "x"])
    pyarrow.parquet.write_table(twice, tmp_path / "twice.parquet")
    assert "twice.parquet: the header has 'x' twice" in said(tmp_path / "twice.parquet", train="*")
    late = pyarrow.table({"x": pyarrow.array([2**40], "timestamp[s]")})
    pyarrow.parquet.write_table(late, tmp_path / "late.parquet", version="2.6", coerce_timestamps=None)
    assert "late.parquet: it has a value that Python cannot hold: " in said(tmp_path / "late.parquet", train="*")
    rows = [{"text": f"row {i}", "label": i, "score": i / 2, "bytes": bytes([i % 256]), "none": None} for i in range(1000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=300)
    assert every(tmp_path / "a.parquet") == rows
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (whole[:-100], whole[:200] + bytes(200) + whole[400:]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        assert "damaged" in said(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_packed_files_hold_what_they_held_and_those_cut_short_say_so_after_their_good_rows(tmp_path, suffix):
    if suffix == ".zst":
        zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
        pack = lambda data: b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:5000], data[5000:]))
    else:
        pack = {".gz": gzip.compress, ".xz": lzma.compress}[suffix]
    lines = [f"{i} {i * 7919 % 10007}" for i in range(20_000)]
    packed = pack("\n".join(lines).encode())
    folder(tmp_path, {f"whole.txt{suffix}": packed, f"cut.txt{suffix}": packed[:-20], "later.txt": "later\n"})
    assert of(every(tmp_path / f"whole.txt{suffix}"), "text") == lines
    *rows, bad, later = split(tmp_path, train="[cl]*")
    assert bad.where == str(tmp_path / f"cut.txt{suffix}") and "cut short" in bad.what and later["text"] == "later"
    assert len(rows) > 1000 and of(rows, "text") == lines[: len(rows)]


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "webp"])
def test_the_folder_of_an_image_is_its_label(tmp_path, kind):
    data = picture(kind)
    names = [f"{split}/{label}/license {i}" for split in ("train", "test") for label in ("cat", "dog") for i in range(2)]
    files = {f"{name}.{kind}": data for name in names}
    folder(tmp_path / "photos", files | {"README.md": "", ".hidden": ""})
    for path in (tmp_path / "photos", archive(tmp_path / "a.tar", files), archive(tmp_path / "a.tgz", files, "w:gz")):
        assert list(Files(str(path)).splits({}, {})) == ["train", "test"]
        assert split(path, "test") == [{"label": label, "image": data} for label in ("cat", "cat", "dog", "dog")]
        assert of(split(path, train="test/dog/*"), "label") == ["dog", "dog"]
    assert every(tmp_path / "photos/test/cat") == [{"image": data}] * 2  # one folder is no class


@pytest.mark.parametrize(
    ("width", "values"), [(1, (0, 128, 255)), *((w, (-(2 ** (8 * w - 1)), 0, 2 ** (8 * w - 1) - 1)) for w in (2, 3, 4))]
)
def test_sound_is_what_its_pcm_says(tmp_path, width, values):
    files = {"3_a.wav": sound(values, width), "4_b.wav": sound([v for v in values for _ in "lr"], width, channels=2)}
    for path in (folder(tmp_path / "sounds", files), archive(tmp_path / "sounds.tar", files)):
        rows = every(path)
        assert of(rows, "label") == ["3", "4"] and of(rows, "sample_rate") == [8000, 8000]
        for row in rows:
            assert row["audio"].dtype == np.float32 and row["audio"].shape == (3,)
            assert np.allclose(row["audio"], [-1, 0, 1], atol=2.0 ** (1 - 8 * width)) and abs(row["audio"]).max() <= 1
    files = {"yes/a_0.wav": sound([1]), "no/a_0.wav": sound([1])}
    assert of(every(folder(tmp_path / "classes", files)), "label") == ["no", "yes"]


def test_what_is_elsewhere_is_read_as_what_is_here(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    files = {"train.csv": b"a,b\n1,2\n", "dev.csv.gz": gzip.compress(b"a,b\n3,4\n"), "more/x.jsonl": b'{"a": 1}'}
    for name, data in files.items():
        memory.pipe(f"/elsewhere/{name}", data)
    url = "memory://elsewhere"
    assert every(f"{url}/train.csv") == split(f"{url}/*.csv*") == [{"a": "1", "b": "2"}]
    assert split(f"{url}/*.csv*", "validation") == split(url, train="dev.csv.gz") == [{"a": "3", "b": "4"}]
    assert every(f"{url}/more") == [{"a": 1}]
    before = Files(url).stamp()
    assert set(before) == {f"memory:///elsewhere/{name}" for name in files} and before == Files(url).stamp()
    memory.pipe("/elsewhere/train.csv", b"a,b\n1,3\n")
    assert [name for name, state in Files(url).stamp().items() if before[name] != state] == ["memory:///elsewhere/train.csv"]
    assert "did you mean train.csv?" in said(f"{url}/trian.csv") and "nowhere" in said("nowhere://x")


# Which rows are of which split


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
def test_names_say_the_split(tmp_path, name, expected):
    assert list(Files(str(folder(tmp_path, {name: "a\nb\n"}))).splits({}, {})) == [expected]


def test_one_in_ten_of_each_label_is_held_out_and_no_label_is_lost(tmp_path):
    rows = [{"text": str(i), "label": "rare" if i in (500, 900) else "often"} for i in range(1000)] + [
        {"text": "x", "label": "one"}
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, held = split(tmp_path / "a.jsonl"), split(tmp_path / "a.jsonl", "validation")
    assert sorted(of(train + held, "text")) == sorted(of(rows, "text")) and held == split(tmp_path / "a.jsonl", "validation")
    assert of([row for row in held if row["label"] == "rare"], "text") == ["900"] and {"text": "x", "label": "one"} in train
    often = of([row for row in rows if row["label"] == "often"], "text")
    expected = [text for k, text in enumerate(often) if k == 1 or (k and zlib.crc32(str(k).encode()) % 10 == 0)]
    assert of([row for row in held if row["label"] == "often"], "text") == expected and 80 < len(expected) < 120


def test_labels_and_documents_are_held_out_by_the_names_that_they_have(tmp_path):
    rows = [{"module": f"m{i % 40}", "sentiment": "rare" if i > 197 else "often"} for i in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Files(str(tmp_path / "rows.jsonl"))
    by_label = {name: of(found, "sentiment").count("rare") for name, found in source.splits({}, {"label": "sentiment"}).items()}
    assert by_label == {"train": 1, "validation": 1}
    by_document = {name: of(found, "module") for name, found in source.splits({}, {"document": "module"}).items()}
    train, held = by_document.values()  # although each comes back again and again
    assert set(train).isdisjoint(held) and sorted(train + held) == sorted(of(rows, "module"))
    assert {held.count(module) for module in held} == {5}


def test_two_documents_are_enough_to_hold_one_out_and_rows_without_are_their_own(tmp_path):
    (tmp_path / "a.csv").write_text("document,x\na,1\na,2\nb,3\na,4\nb,5\n")
    assert [of(split(tmp_path / "a.csv", name), "x") for name in ("train", "validation")] == [["1", "2", "4"], ["3", "5"]]
    (tmp_path / "b.csv").write_text("document,x\n" + ",1\n" * 100)
    assert 80 < len(split(tmp_path / "b.csv")) < 100
    (tmp_path / "c.csv").write_text("document,x\n" + "a,1\n" * 100)
    with pytest.raises(DataError, match="there is one document only, and none can be held out"):
        split(tmp_path / "c.csv", "validation")


def test_a_star_stands_for_a_name_and_not_for_folders(tmp_path):
    path = folder(tmp_path, {"a.csv": "a\n1\n", "more/b.csv": "a\n2\n"})
    found = Files(str(path)).splits({"train": "*.csv", "validation": "more/*.csv", "test": "**/*.csv"}, {})
    assert [of(rows, "a") for rows in found.values()] == [["1"], ["2"], ["1", "2"]]


def test_data_splits_may_name_splits_files_globs_and_slices(tmp_path):
    path = folder(tmp_path, {"train.csv": "a\n1\n2\n3\n4\n", "other.csv": "a\n5\n6\n", "more/x.csv": "a\n7\n", "junk.bin": "?"})
    numbers = lambda **wanted: [of(rows, "a") for rows in Files(str(path)).splits(wanted, {}).values()]
    assert numbers(train="train[:50%]", validation="other.csv", test="more/*") == [["1", "2"], ["5", "6"], ["7"]]
    assert numbers(train="train.csv[1:]+other.csv[:1]") == [["2", "3", "4", "5"]]
    for wrong, what in {"othr.csv": "did you mean other.csv", "mor/*": "there is no file 'mor/*'", "*": "cannot tell"}.items():
        assert what in said(path, train=wrong)


def test_a_stamp_tells_a_change(tmp_path):
    path = folder(tmp_path, {"a.csv": "x\n1\n", "b.csv": "x\n2\n"})
    before = Files(str(path)).stamp()
    assert set(before) == {str(path / "a.csv"), str(path / "b.csv")} and before == Files(str(path)).stamp()
    os.utime(path / "b.csv", ns=(0, 1))
    assert before != Files(str(path)).stamp() == before | {str(path / "b.csv"): "4 1"}


def test_no_more_is_read_than_is_asked_for(tmp_path):
    import tracemalloc

    with gzip.open(tmp_path / "a.jsonl.gz", "wt", compresslevel=1) as file:
        file.writelines(json.dumps({"text": f"{i} " * 50}) + "\n" for i in range(50_000))
    rows = Files(str(tmp_path)).splits({"train": "*"}, {})["train"]
    tracemalloc.start()
    assert sum(1 for _ in rows) == 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


# What can be wrong


def test_the_rows_around_a_bad_one_are_read(tmp_path):
    folder(
        tmp_path, {"a.csv": b'x\n1\n"\xe9\n"2"3\n4\n5\n', "b.jsonl": b'{"x": 1}\n{\n{"x": 3}\n', "c.tsv": b"\nx\ty\n1\n1\t2\n"}
    )
    kept = lambda name: [row if isinstance(row, dict) else row.where[-1] for row in every(tmp_path / name)]
    assert kept("a.csv") == [{"x": "1"}, "3", "4", {"x": "4"}, {"x": "5"}]
    assert kept("b.jsonl") == [{"x": 1}, "2", {"x": 3}]
    assert kept("c.tsv") == ["3", {"x": "1", "y": "2"}]


@pytest.mark.parametrize(
    ("files", "where", "what"),
    [
        ({"a.jsonl": '{"x": 1}\n{"x": \n'}, "a.jsonl, line 2", "not JSON: Expecting value: column 7"),
        ({"a.jsonl": '{"x": 1}\n3\n'}, "a.jsonl, line 2", "an object is needed"),
        ({"a.jsonl": b'{"x": 1}\n{"x": "\xff"}\n'}, "a.jsonl, line 2", "byte 16 (0xff) is not UTF-8"),
        ({"a.txt": b"good\n\ngood\nbad \xe9\ngood\n"}, "a.txt, line 4", "byte 15 (0xe9) is not UTF-8"),
        ({"a.en": b"\xef\xbb\xbfgood\nb\xe9d\n"}, "a.en, line 2", "byte 9 (0xe9) is not UTF-8"),
        ({"a.csv": b'x,y\n"1\n2",3\n\xe9,4\n5,6\n'}, "a.csv, line 4", "byte 12 (0xe9) is not UTF-8"),
        ({"a.csv": 'x,y\n"1\n2",3\n4\n'}, "a.csv, line 4", "1 fields, but the header has 2: x, y"),
        ({"a.csv": 'x,y\n1,2\n3,"4\n5,6\n'}, "a.csv, line 3", "not CSV: unexpected end of data"),
        ({"a.csv": 'x,y\n"1"2,3\n3,4\n'}, "a.csv, line 2", "not CSV: ',' expected after '\"'"),
        ({"a.tsv": "x\ty\n1\t2\t3\n1\t2"}, "a.tsv, line 2", "3 fields, but the header has 2: x, y"),
        ({"a.tsv": b"\xe9\ty\n1\t2"}, "a.tsv, line 1", "byte 0 (0xe9) is not UTF-8"),
        ({"a.csv": 'x"y\n"1"2\n'}, "a.csv, line 2", "not CSV"),
        ({"a.csv": '"x"y\n1\n'}, "a.csv, line 1", "not CSV"),
        ({"a.csv": "x,x\n1,2"}, "a.csv, line 1", "the header has 'x' twice"),
        ({"a.csv": 'x\n"1\n2\n3\n'}, "a.csv, line 2 to 4", "not CSV: unexpected end of data"),
        ({"a.csv": "x\n"}, "a.csv", "there is no row in it"),
        ({"a.txt": ""}, "a.txt", "there is no row in it"),
        ({"a.csv": "x\n1\n", "b.csv": ""}, "b.csv", "there is no row in it"),
        ({"a.csv": "x\n1\n", "b.csv": "y\n1"}, "b.csv", "has the fields y, but"),
        ({"a.csv": "x\n1\n", "b.txt": "1"}, "", "there are tables (a.csv) and texts (b.txt); a glob"),
        ({"a.json": "[]"}, "a.json", "cannot tell what is in a .json; there are: .txt, .jsonl"),
        ({"a.parquet.gz": ""}, "a.parquet.gz", "cannot tell what is in a .parquet.gz; there are:"),
        ({"Makefile": ""}, "Makefile", "cannot tell what is in a file without suffix; there are:"),
        ({"a.parquet": "no"}, "a.parquet", "damaged"),
        ({"a.txt.gz": "no"}, "a.txt.gz", "damaged, or cut short: Not a gzipped file"),
        ({"a.txt.xz": "no"}, "a.txt.xz", "damaged"),
        ({"a.jpg": picture()[:-200], "b.jpg": picture()}, "a.jpg", "not an image that can be decoded: image file is truncated"),
        ({"a.jpg": "no", "b.jpg": picture()}, "a.jpg", "not an image that can be decoded: cannot identify image file"),
        ({"a.wav": "no", "b.wav": sound([1])}, "a.wav", "no WAV file of PCM"),
        ({"a.wav": sound([1] * 9)[:-4], "b.wav": sound([1])}, "a.wav", "it is cut short"),
        (
            {"train-images-idx3-ubyte": IDX[3] + b"\7", "train-labels-idx1-ubyte": IDX[1] + b"12"},
            "train-images",
            "not as many bytes",
        ),
        (
            {"train-images-idx3-ubyte": IDX[3], "train-labels-idx1-ubyte": IDX[1][:-1] + b"\3"},
            "train-images",
            "2 images, but 3 labels",
        ),
        ({"train-images-idx3-ubyte": b"no"}, "train-labels-idx1-ubyte", "No such file"),
        ({"train-images-idx3-ubyte": b"no", "train-labels-idx1-ubyte": b"no"}, "train-images-idx3-ubyte", "no idx file of bytes"),
    ],
)
def test_what_is_bad_is_said_with_its_place(tmp_path, files, where, what):
    message = said(folder(tmp_path, files), train="*")
    assert f"{tmp_path}/{where}".rstrip("/") in message and what in message, message


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a.jsonl: it is no regular file"):
        Files(str(tmp_path)).stamp()


@pytest.mark.parametrize(
    ("path", "what"),
    {
        "trian.csv": "No such file or directory; did you mean train.csv?",
        "*.json": "*.json: no file matches; * stands for a name",
        "empty": "there is no file in it",
        "read": "there is no data in it, only README.md and the like",
        "mixed": "x.csv is of no split, but train.csv is of train; a glob leaves files out, and data.splits says",
        "one.csv": "there is one row only, and none can be held out",
        "each.jsonl": "there is one row only of each label, and none can be held out",
        "a.tar": "a.tar, b.csv: only images and sounds are read from an archive; unpack it",
        "b.tar": "b.tar: no archive that can be read",
        "c.tar": "c.tar: there is no file in it",
    }.items(),
)
def test_what_cannot_be_used_is_said_with_what_would_be(tmp_path, path, what):
    folder(tmp_path, {"train.csv": "x\n1\n", "mixed/train.csv": "x\n1\n", "mixed/x.csv": "x\n1\n", "read/README.md": "x"})
    folder(tmp_path, {"one.csv": "x\n1\n", "each.jsonl": '{"label": 1}\n{"label": 2}\n', "b.tar": b"no archive" * 100})
    (tmp_path / "empty").mkdir()
    archive(tmp_path / "a.tar", {"b.csv": b"x"}), archive(tmp_path / "c.tar", {})
    with pytest.raises(DataError) as error:
        split(f"{tmp_path}/{path}", "validation")
    assert what in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_files_that_may_not_be_read_say_so(tmp_path, monkeypatch):
    path = folder(tmp_path, {"a.csv": "x\n1\n"}) / "a.csv"

    def refuse(name, *_, **__):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr("builtins.open", refuse)  # the tests may run as one who may read everything
    assert said(path, train="*") == f"{path}: Permission denied"


@pytest.mark.parametrize("cut", [512, 700, 1024 + 512, -10_000])
def test_an_archive_that_is_cut_short_says_so_after_its_good_rows(tmp_path, cut):
    files = {f"{i}_a.wav": sound([i] * 100) for i in range(20)}
    path = archive(tmp_path / "a.tar", files)
    path.write_bytes(path.read_bytes()[:cut])
    message = said(path, train="*")
    assert message.startswith(f"{path}: ") and ("cut short" in message or "no archive" in message)


def test_a_source_needs_a_path():
    assert find("files:reviews.csv") == Files("reviews.csv")
    with pytest.raises(DataError, match="the path is missing: files:PATH"):
        find("files:")
