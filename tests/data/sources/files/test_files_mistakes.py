"""Every way in which a file can be bad: it is named, with the place in it and what would be right."""

import os

import pytest

from data.errors import DataError
from data.sources import find
from data.sources.files import Files
from tests.data.sources.files.made_files import IDX, archive, every, folder, picture, said, sound, split

pytestmark = pytest.mark.quick


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
