"""Files where they are: on this machine, or wherever fsspec reaches; packed, in archives, or plain."""

import glob
import gzip
import io
import lzma
import os
import posixpath
import re
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from data import sources
from data.errors import DataError


class Damaged(Exception):
    """A file whose end is missing or whose bytes make no sense: what was read of it before is good."""


DAMAGE = (Damaged, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError)
"What the readers of this module raise for such a file."

PACKED = (".gz", ".xz", ".zst")
_ARCHIVE = re.compile(r"\.(tar|tar\.gz|tar\.xz|tar\.zst|tgz)$", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class File:
    """`path` on the file system `fs` of fsspec, or on this machine where there is none."""

    path: str
    name: str
    "its path within what was asked for"
    fs: Any = None

    @property
    def where(self) -> str:
        return self.fs.unstrip_protocol(self.path) if self.fs else self.path

    @property
    def is_archive(self) -> bool:
        return _ARCHIVE.search(self.path) is not None

    def stamp(self) -> str:
        """What is different where the file is. Raises DataError where it is not there."""
        with _told(self.where):
            if self.fs:
                return f"{self.fs.size(self.path)} {self.fs.checksum(self.path)}"
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
                raise DataError(f"{self.path}: it is no regular file")
            return f"{status.st_size} {status.st_mtime_ns}"

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Its bytes, unpacked. Raises DataError where it cannot be opened, and one of DAMAGE while it is read."""
        with _told(self.where):
            raw = self.fs.open(self.path, "rb") if self.fs else open(self.path, "rb")  # noqa: SIM115, it is closed below
        with raw, _unpacked(raw, self.path) as stream:
            yield stream

    def beside(self, name: str) -> "File":
        """The file of that name in the same folder."""
        return File(str(PurePosixPath(self.path).with_name(name)), str(PurePosixPath(self.name).with_name(name)), self.fs)


@dataclass(frozen=True)
class Member:
    """A file in an archive, which can be opened while it is the archive's turn to be there, and once."""

    archive: str
    name: str
    stream: BinaryIO

    @property
    def where(self) -> str:
        return f"{self.archive}, {self.name}"

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        yield self.stream


def members(file: File) -> Iterator[Member]:
    """The files of an archive in their order, which is read as a stream. Raises one of DAMAGE."""
    with file.open() as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
        while (header := tar.next()) is not None:
            cast(Any, tar).members.clear()  # where it would keep every header that it has seen
            if header.isreg():
                yield Member(
                    file.where,
                    posixpath.normpath(posixpath.join(file.name, header.name)),
                    cast(BinaryIO, tar.extractfile(header)),
                )


def find(path: str) -> list[File]:
    """The file at `path`, or those of the folder there and of the folders in it, or those that match a glob, by name.

    Raises DataError where there is none, or it may not be read.
    """
    with _told(path):
        root, paths, fs = _remote(path) if _URL.match(path) else _local(os.path.expanduser(path))
    if not paths:
        wrong = "no file matches; * stands for a name, ** for folders" if glob.has_magic(path) else "there is no file in it"
        raise DataError(f"{path}: {wrong}")
    return [File(each, each[len(root) :].lstrip("/"), fs) for each in sorted(paths)]


def _local(path: str) -> tuple[str, list[str], Any]:
    if glob.has_magic(path) and not os.path.exists(path):
        return _fixed(path), [each for each in glob.glob(path, recursive=True) if os.path.isfile(each)], None
    try:
        os.stat(path)
    except FileNotFoundError as error:
        folder, name = os.path.split(path.rstrip("/"))
        beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        raise DataError(f"{path}: {error.strerror}{sources.near(name, beside)}") from None
    if not os.path.isdir(path):
        return os.path.dirname(path), [path], None
    walk = os.walk(path, onerror=_raise, followlinks=True)
    return path, [os.path.join(folder, name) for folder, _, names in walk for name in names], None


def _remote(url: str) -> tuple[str, list[str], Any]:
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(url)
    if glob.has_magic(path) and not fs.exists(path):
        return _fixed(path), [each for each in fs.glob(path) if fs.isfile(each)], fs
    if fs.isfile(path):
        return path.rpartition("/")[0], [path], fs
    if not fs.exists(path):
        folder, _, name = path.rstrip("/").rpartition("/")
        beside = [PurePosixPath(each).name for each in fs.ls(folder, detail=False)] if fs.exists(folder) else []
        raise DataError(f"{url}: there is nothing{sources.near(name, beside)}")
    return path.rstrip("/"), fs.find(path), fs


def _fixed(pattern: str) -> str:
    """The folder that a glob begins with."""
    return re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Makes DataErrors of what file systems raise, of which each has errors of its own."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{error.filename or where}: {error.strerror or error}") from error
    except Exception as error:
        raise DataError(f"{where}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _unpacked(raw: BinaryIO, path: str) -> BinaryIO:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in (".gz", ".tgz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.LZMAFile(raw))
    if suffix != ".zst":
        return raw
    try:
        return io.BufferedReader(_Zstd(raw))
    except ImportError:
        raise DataError(f"{path}: a package is missing to read it: pip install zstandard") from None


class _Zstd(io.RawIOBase):
    """One frame after the other. The library's own reader takes a file that is cut short for one that ends."""

    def __init__(self, raw: BinaryIO):
        import zstandard

        self.raw, self.new_frame, self.error = raw, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
        self.frame, self.packed, self.plain = None, b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.plain:
            self.packed = self.packed or self.raw.read(1 << 16)
            if not self.packed and self.frame is None:
                return 0
            if not self.packed:
                raise Damaged("it ends before the end of a frame")
            self.frame = self.frame or self.new_frame()
            try:
                self.plain, self.packed = memoryview(self.frame.decompress(self.packed)), b""
            except self.error as error:
                raise Damaged(str(error)) from None
            if self.frame.eof:
                self.packed, self.frame = self.frame.unused_data, None
        count = min(len(buffer), len(self.plain))
        buffer[:count], self.plain = self.plain[:count], self.plain[count:]
        return count


class _Header(tarfile.TarInfo):
    """Of a member. The library takes one that is damaged or cut off for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end
                raise
            raise Damaged(f"an archive ends with blocks of zeros, not with: {error}") from None
