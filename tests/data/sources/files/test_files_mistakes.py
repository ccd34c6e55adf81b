"""Errors in files: messages name the file, the location and the fix."""

import os
import tarfile

import pytest

from data.errors import DataError
from data.sources import find
from data.sources.files import Files
from tests.data.sources.files.made_files import (
    IDX,
    error_message,
    image_bytes,
    read_all,
    read_split,
    wav_bytes,
    write_archive,
    write_files,
)


def test_rows_around_a_bad_row_are_read(tmp_path):
    write_files(
        tmp_path, {"a.csv": b'x\n1\n"\xe9\n"2"3\n4\n5\n', "b.jsonl": b'{"x": 1}\n{\n{"x": 3}\n', "c.tsv": b"\nx\ty\n1\n1\t2\n"}
    )
    kept = lambda name: [row if isinstance(row, dict) else row.where[-1] for row in read_all(tmp_path / name)]
    assert kept("a.csv") == [{"x": "1"}, "3", "4", {"x": "4"}, {"x": "5"}]
    assert kept("b.jsonl") == [{"x": 1}, "2", {"x": 3}]
    assert kept("c.tsv") == ["3", {"x": "1", "y": "2"}]


@pytest.mark.parametrize(
    ("files", "where", "what"),
    [
        ({"a.jsonl": '{"x": 1}\n{"x": \n'}, "a.jsonl, line 2", "not JSON: Expecting value: column 7"),
        ({"a.jsonl": '{"x": 1}\n3\n'}, "a.jsonl, line 2", "not a JSON object"),
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
        ({"a.csv": "x,x\n1,2"}, "a.csv, line 1", "the header repeats 'x'"),
        ({"a.csv": 'x\n"1\n2\n3\n'}, "a.csv, line 2 to 4", "not CSV: unexpected end of data"),
        ({"a.csv": "x\n"}, "a.csv", "no rows"),
        ({"a.txt": ""}, "a.txt", "no rows"),
        ({"a.csv": "x\n1\n", "b.csv": ""}, "b.csv", "no rows"),
        ({"a.csv": "x\n1\n", "b.csv": "y\n1"}, "b.csv", "has the fields y, but"),
        ({"a.csv": "x\n1\n", "b.txt": "1"}, "", "mixes tables (a.csv) and texts (b.txt); select"),
        ({"a.json": "[]"}, "a.json", "not in the format of SQuAD"),
        ({"a.parquet.gz": ""}, "a.parquet.gz", "unknown format .parquet.gz; supported:"),
        ({"Makefile": ""}, "Makefile", "unknown format (no suffix); supported:"),
        ({"a.parquet": "no"}, "a.parquet", "damaged"),
        ({"a.txt.gz": "no"}, "a.txt.gz", "damaged or truncated: Not a gzipped file"),
        ({"a.txt.xz": "no"}, "a.txt.xz", "damaged"),
        ({"a.jpg": image_bytes()[:-200], "b.jpg": image_bytes()}, "a.jpg", "cannot decode the image: image file is truncated"),
        ({"a.jpg": "no", "b.jpg": image_bytes()}, "a.jpg", "cannot decode the image: cannot identify image file"),
        ({"a.wav": "no", "b.wav": wav_bytes([1])}, "a.wav", "cannot decode the audio: Format not recognised"),
        ({"a.wav": wav_bytes([1] * 9)[:-4], "b.wav": wav_bytes([1])}, "a.wav", "truncated: 58 bytes of 62"),
        (
            {"train-images-idx3-ubyte": IDX[3] + b"\7", "train-labels-idx1-ubyte": IDX[1] + b"12"},
            "train-images",
            "too few bytes",
        ),
        (
            {"train-images-idx3-ubyte": IDX[3], "train-labels-idx1-ubyte": IDX[1][:-1] + b"\3"},
            "train-images",
            "2 images, but 3 labels",
        ),
        ({"train-images-idx3-ubyte": b"no"}, "train-labels-idx1-ubyte", "No such file"),
        (
            {"train-images-idx3-ubyte": b"no", "train-labels-idx1-ubyte": b"no"},
            "train-images-idx3-ubyte",
            "not an idx file of bytes",
        ),
    ],
)
def test_errors_name_the_location_and_the_problem(tmp_path, files, where, what):
    message = error_message(write_files(tmp_path, files), train="*")
    assert f"{tmp_path}/{where}".rstrip("/") in message and what in message, message


def test_a_pipe_is_rejected_instead_of_read(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a.jsonl: not a regular file"):
        Files(str(tmp_path)).stamp()


@pytest.mark.parametrize(
    ("path", "what"),
    {
        "trian.csv": "No such file or directory; did you mean train.csv?",
        "*.json": "*.json: no file matches; * matches a name",
        "empty": "no files in the folder",
        "read": "no data files, only ignored ones such as README.md",
        "mixed": "x.csv belongs to no split, but train.csv belongs to train; exclude files with a glob, or use --data.splits",
        "one.csv": "only one row, so none can be held out",
        "each.jsonl": "only one row per label, so none can be held out",
        "a.tar": "a.tar, b.csv: only images and audio can be read from an archive; unpack it",
        "b.tar": "b.tar: not a readable archive",
        "c.tar": "c.tar: the archive contains no files",
    }.items(),
)
def test_an_unusable_path_is_reported_with_a_fix(tmp_path, path, what):
    write_files(tmp_path, {"train.csv": "x\n1\n", "mixed/train.csv": "x\n1\n", "mixed/x.csv": "x\n1\n", "read/README.md": "x"})
    write_files(tmp_path, {"one.csv": "x\n1\n", "each.jsonl": '{"label": 1}\n{"label": 2}\n', "b.tar": b"no archive" * 100})
    (tmp_path / "empty").mkdir()
    write_archive(tmp_path / "a.tar", {"b.csv": b"x"}), write_archive(tmp_path / "c.tar", {})
    with pytest.raises(DataError) as error:
        read_split(f"{tmp_path}/{path}", "validation")
    assert what in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_read_permission_is_reported(tmp_path, monkeypatch):
    path = write_files(tmp_path, {"a.csv": "x\n1\n"}) / "a.csv"

    def refuse(name, *_, **__):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr("builtins.open", refuse)  # the tests may run as root
    assert error_message(path, train="*") == f"{path}: Permission denied"


@pytest.mark.parametrize("cut", [512, 700, 1024 + 512, -10_000])
def test_a_truncated_archive_is_reported_after_its_good_rows(tmp_path, cut):
    files = {f"{i}_a.wav": wav_bytes([i] * 100) for i in range(20)}
    path = write_archive(tmp_path / "a.tar", files)
    path.write_bytes(path.read_bytes()[:cut])
    message = error_message(path, train="*")
    assert message.startswith(f"{path}: ") and ("truncated" in message or "not a readable archive" in message)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_in_an_archive_is_rejected_instead_of_left_out(tmp_path, kind):
    path = write_archive(tmp_path / "a.tar", {"cat/1.png": image_bytes("png")})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("dog/2.png")
        link.type, link.linkname = kind, "cat/1.png"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"a\.tar, dog/2\.png: a link to cat/1\.png; unpack the archive"):
        Files(str(path)).splits({}, {})


def test_a_source_needs_a_path():
    assert find("files:reviews.csv") == Files("reviews.csv")
    with pytest.raises(DataError, match="the path is missing; use files:PATH"):
        find("files:")


def test_a_class_without_images_is_an_error(tmp_path):
    write_files(tmp_path, {f"{split}/{label}/1.png": image_bytes("png") for split in ("train", "test") for label in "ab"})
    (tmp_path / "train/c").mkdir()
    message = error_message(tmp_path)
    assert message.endswith("the folder train/c has no files; remove it, or add images of its class")
    (tmp_path / "train/c").rmdir()
    assert len(read_split(tmp_path)) == 2
