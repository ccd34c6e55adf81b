"""Helpers that write test files and read them through the source `files`."""

import io
import tarfile
import wave

from data.errors import DataError
from data.sources import WHERE, Bad
from data.sources.files import Files

IDX = {3: bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1)), 1: bytes((0, 0, 8, 1, 0, 0, 0, 2))}  # two images of one pixel


def read_split(path, name="train", **wanted):
    rows = Files(str(path)).splits(wanted, {"label": "label", "document": "document"})[name]
    return [{k: v for k, v in row.items() if k != WHERE} if isinstance(row, dict) else row for row in rows]


def read_all(path):
    """Return all rows of the files at `path`, in order."""
    return read_split(path, train="**")


def column(rows, field):
    return [row[field] for row in rows]


def error_message(path, **wanted):
    """Return the message of the first bad row, else of the DataError."""
    try:
        return next(f"{row.where}: {row.what}" for row in Files(str(path)).splits(wanted, {})["train"] if isinstance(row, Bad))
    except DataError as error:
        return str(error)


def image_bytes(kind="jpeg"):
    from PIL import Image

    out = io.BytesIO()
    Image.effect_noise((24, 24), 60).convert("RGB").save(out, kind)
    return out.getvalue()


def wav_bytes(values, width=2, channels=1):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels), file.setsampwidth(width), file.setframerate(8000)
        file.writeframes(b"".join(int(value).to_bytes(width, "little", signed=width > 1) for value in values))
    return out.getvalue()


def write_files(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def write_archive(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path
