"""Labelled images: the same pixels in training and prediction, from files and arrays."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.images.labelled import Images
from data.images.stored import ImageCodec


@pytest.fixture(autouse=True)
def temporary_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def images_of(dataset):
    """Return {label: images} of all splits."""
    found: dict[str, list] = {}
    for examples in dataset.splits.values():
        batch = examples[np.arange(len(examples))]
        for image, label in zip(batch["image"], batch["label"], strict=True):
            found.setdefault(dataset.codec.labels[label], []).append(image)
    return found


def test_the_same_pixels_with_two_orientations_differ(tmp_path):
    stored = Image.new("L", (8, 8))
    stored.paste(255, (0, 0, 8, 4))
    for i in range(4):
        for orientation in (1, 6):
            exif = Image.Exif()
            exif[0x0112] = orientation
            save(tmp_path / f"photos/{orientation}/{i}.jpg", stored, exif=exif, quality=95)
    dataset = Images(source=f"files:{tmp_path}/photos", batch_size=2).build()
    for label, bright in (("1", np.s_[:4]), ("6", np.s_[:, 4:])):
        for image in images_of(dataset)[label]:
            assert image[bright].min() > 0.95 and image.sum() == pytest.approx(32, abs=1)
    predicted, notes = dataset.codec.encode([{"image": str(tmp_path / "photos/6/0.jpg")}])
    assert np.array_equal(predicted["image"][0], images_of(dataset)["6"][0]) and notes == []


def test_8_bit_and_16_bit_files_may_be_mixed(tmp_path):
    for i in range(4):
        save(tmp_path / f"photos/low/{i}.png", Image.new("L", (8, 8), 51))
        save(tmp_path / f"photos/high/{i}.tif", Image.fromarray(np.full((8, 8), 52428, np.uint16)))
    found = images_of(Images(source=f"files:{tmp_path}/photos", batch_size=2).build())
    assert np.allclose(found["low"], 0.2) and np.allclose(found["high"], 0.8)


def test_files_of_several_frames_are_noted(tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (51, 255)]
    for i in range(4):
        save(tmp_path / f"photos/still/{i}.gif", frames[1])
        moving = save(tmp_path / f"photos/moving/{i}.gif", frames[0], save_all=True, append_images=frames[1:])
    dataset = Images(source=f"files:{tmp_path}/photos", batch_size=2, convert=True).build()
    assert np.allclose(images_of(dataset)["moving"], 0.2)
    assert dataset.notes == ["4 images: of several frames or pages, only the first is used"]
    assert dataset.codec.encode([{"image": str(moving)}])[1] == ["row 0: of several frames or pages, only the first is used"]


@pytest.mark.parametrize("scale", [1, 255])
def test_integers_are_scaled_in_training_and_prediction_and_floats_are_not(tmp_path, scale):
    pixels = lambda i: [[float(i) if scale == 1 else i] * 8] * 8
    rows = [{"image": [[[value] for value in row] for row in pixels(51 * (i % 2))], "label": i % 2} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = Images(source=f"files:{tmp_path}/rows.jsonl", batch_size=2).build()
    assert np.allclose(images_of(dataset)["1"], 51 / scale)
    assert np.allclose(dataset.codec.encode(rows[1:2])[0]["image"], 51 / scale)


def test_arrays_of_integers_are_scaled_by_their_type():
    codec = ImageCodec((1, 1, 1), False, True, ())
    for value, expected in ((np.uint8(51), 0.2), (np.uint16(13107), 0.2), (51, 0.2), (0.2, 0.2), (300.0, 300)):
        assert codec.decode({"image": np.full((1, 1, 1), value)}) == pytest.approx(expected)
    for value in (256, -1):
        with pytest.raises(DataError, match="its image has integers outside 0 to 255; store it as uint16 or floats"):
            codec.decode({"image": [[[value]]]})


def test_encoded_images_are_decoded_like_files():
    file = io.BytesIO()
    Image.new("LA", (1, 1), (0, 0)).save(file, "png")
    assert ImageCodec((1, 1, 1), False, True, ()).decode({"image": file.getvalue()}) == 1


def colours(folder, count: int = 8):
    """Write images of two labels, in shades of one colour each."""
    rng = np.random.default_rng(0)
    for label, colour in (("a", (200, 100, 20)), ("b", (20, 60, 250))):
        for i in range(count):
            noise = rng.integers(-20, 5, (4, 4, 3))
            save(folder / f"{label}/{i}.png", Image.fromarray((np.array(colour) + noise).astype(np.uint8)))
    return Images(source=f"files:{folder}", shape=(4, 4, 3), batch_size=2)


def test_the_data_gives_the_mean_and_std_that_the_objective_uses(tmp_path):
    data = colours(tmp_path / "photos")
    train = data.build().splits["train"]
    pixels = train[np.arange(len(train))]["image"].astype(np.float64)
    facts = replace(data, normalize="standard").build().facts
    np.testing.assert_allclose(facts["image_mean"], pixels.mean((0, 1, 2)), atol=2e-6)
    np.testing.assert_allclose(facts["image_std"], pixels.std((0, 1, 2)), atol=2e-6)
    facts = replace(data, normalize="symmetric").build().facts
    assert (facts["image_mean"], facts["image_std"]) == ((0.5,) * 3, (0.5,) * 3)
    assert "image_mean" not in data.build().facts
    assert replace(data, normalize="standard").assumed().keys() >= {"image_mean", "image_std"}


def test_rejected_images_do_not_count_for_the_mean(tmp_path):
    """An array of floats among image files is of another kind."""
    save(tmp_path / "rows/a.png", Image.new("L", (2, 2), 51))
    rows = [{"image": "a.png", "label": i % 2} for i in range(20)]
    for split, extra in (("train", [{"image": [[[0.9]] * 2] * 2, "label": 0}]), ("test", [])):
        kept = [*rows[:10], *extra, *rows[10:]]
        (tmp_path / f"rows/{split}.jsonl").write_text("\n".join(json.dumps(row) for row in kept))
    source = f"files:{tmp_path}/rows/*.jsonl"
    data = Images(source=source, shape=(2, 2, 1), batch_size=2, normalize="standard", bad_records="skip")
    dataset = data.build()
    assert len(dataset.bad_records) == 1
    assert dataset.facts["image_mean"] == (pytest.approx(0.2, abs=1e-6),)
