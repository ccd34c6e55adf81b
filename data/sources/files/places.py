"""Access to files: local or through fsspec; plain, compressed or in archives."""

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
    """A truncated file, or one with invalid content. The data before the damage is good."""


DAMAGE = (Damaged, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError)
"The errors that this module's readers raise for a damaged file."

PACKED = (".gz", ".xz", ".zst")
_ARCHIVE = re.compile(r"\.(tar|tar\.gz|tar\.xz|tar\.zst|tgz)$", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class File:
    """A file at `path`, local or on the fsspec file system `fs`."""

    path: str
    name: str
    "path relative to the requested folder or glob"
    fs: Any = None

    @property
    def where(self) -> str:
        return self.fs.unstrip_protocol(self.path) if self.fs else self.path

    @property
    def is_archive(self) -> bool:
        return _ARCHIVE.search(self.path) is not None

    def stamp(self) -> str:
        """Return a string that changes when the file changes. Raises DataError if the file is missing."""
        with _data_errors(self.where):
            if self.fs:
                return f"{self.fs.size(self.path)} {self.fs.checksum(self.path)}"
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode):  # reading a pipe could block
                raise DataError(f"{self.path}: not a regular file")
            return sources.file_state(status)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the decompressed file. Raises DataError if that fails; reading may raise one of DAMAGE."""
        with _data_errors(self.where):
            raw = self.fs.open(self.path, "rb") if self.fs else open(self.path, "rb")  # noqa: SIM115, closed below
        with raw, _unpacked(raw, self.path) as stream:
            yield stream

    def beside(self, name: str) -> "File":
        """Return the file with the given name, or relative path, in the same folder."""
        return File(str(PurePosixPath(self.path).parent / name), str(PurePosixPath(self.name).parent / name), self.fs)


@dataclass(frozen=True)
class Member:
    """A file in an archive. Can be opened once, before the iteration over the archive continues."""

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
    """Yield the files of an archive in order, reading it as a stream. Raises one of DAMAGE, or DataError for a link."""
    with file.open() as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
        while (header := tar.next()) is not None:
            cast(Any, tar).members.clear()  # otherwise tarfile keeps every header in memory
            if header.islnk() or header.issym():
                raise DataError(f"{file.where}, {header.name}: a link to {header.linkname}; unpack the archive")
            if header.isreg():
                yield Member(
                    file.where,
                    posixpath.normpath(posixpath.join(file.name, header.name)),
                    cast(BinaryIO, tar.extractfile(header)),
                )


def find(path: str) -> list[File]:
    """Return the file at `path`, all files in that folder and its subfolders, or all files that match the glob, sorted.

    Raises DataError if there is no file, or no permission to read.
    """
    with _data_errors(path):
        root, paths, fs = _remote(path) if _URL.match(path) else _local(os.path.expanduser(path))
    if not paths:
        problem = "no file matches; * matches a name, ** matches folders" if glob.has_magic(path) else "no files in the folder"
        raise DataError(f"{path}: {problem}")
    return [File(each, each[len(root) :].lstrip("/"), fs) for each in sorted(paths)]


def _local(path: str) -> tuple[str, list[str], Any]:
    if glob.has_magic(path) and not os.path.exists(path):
        return _glob_root(path), [each for each in glob.glob(path, recursive=True) if os.path.isfile(each)], None
    try:
        os.stat(path)
    except FileNotFoundError as error:
        folder, name = os.path.split(path.rstrip("/"))
        siblings = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        raise DataError(f"{path}: {error.strerror}{sources.near(name, siblings)}") from None
    if not os.path.isdir(path):
        return os.path.dirname(path), [path], None
    walk = os.walk(path, onerror=_raise, followlinks=True)
    return path, [os.path.join(folder, name) for folder, _, names in walk for name in names], None


def empty_folders(path: str) -> list[str]:
    """Return the folders without files below a local folder, relative to it."""
    path = os.path.expanduser(path)
    walk = os.walk(path, followlinks=True) if os.path.isdir(path) else ()
    return sorted(os.path.relpath(folder, path) for folder, folders, names in walk if not folders and not names)


def _remote(url: str) -> tuple[str, list[str], Any]:
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(url)
    if glob.has_magic(path) and not fs.exists(path):
        return _glob_root(path), [each for each in fs.glob(path) if fs.isfile(each)], fs
    if fs.isfile(path):
        return path.rpartition("/")[0], [path], fs
    if not fs.exists(path):
        folder, _, name = path.rstrip("/").rpartition("/")
        siblings = [PurePosixPath(each).name for each in fs.ls(folder, detail=False)] if fs.exists(folder) else []
        raise DataError(f"{url}: not found{sources.near(name, siblings)}")
    return path.rstrip("/"), fs.find(path), fs


def _glob_root(pattern: str) -> str:
    """Return the folder part of a glob before its first wildcard."""
    return re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _data_errors(where: str) -> Iterator[None]:
    """Convert the errors of any file system to DataError."""
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
        raise DataError(f"{path}: needs the package zstandard; pip install zstandard") from None


class _Zstd(io.RawIOBase):
    """Reader of Zstandard frames that, unlike the library's own, detects a truncated file."""

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
                raise Damaged("incomplete frame")
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
    """A tar header that raises Damaged if it is damaged; tarfile would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # end of the archive
                raise
            raise Damaged(f"invalid tar header: {error}") from None
