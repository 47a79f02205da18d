import dataclasses
import sys
import types

import numpy as np
import pytest
from PIL import Image

import effdet_jax as ed
from effdet_jax.data.example import DataError
from effdet_jax.detection.postprocess import Detections
from effdet_jax.detection.segment import Masks
from effdet_jax.files import DestinationError
from effdet_jax.inference.result import MissingPackageError, Result, coco_results

NAMES = ed.ClassNames(("cat", "dog"), (7, 9))
# Of an image of 50×40 pixels, width × height; the last is padding.
FOUND = Detections(
    np.array([[2, 1, 12, 31], [0, 0, 40, 50], [9, 9, 9, 9]], np.float32),
    np.array([0.75, 0.25, 0.9], np.float32),
    np.array([1, 0, 1], np.int32),
    np.array([True, True, False]),
)


def result(**changes):
    found = Result.of(FOUND, NAMES, (40, 50))
    return Result(**(vars(found) | {"image": np.zeros((40, 50, 3), np.uint8)} | changes))


def test_it_has_what_is_real_with_names():
    found = result()
    assert len(found) == 2 and found.boxes.shape == (2, 4)
    assert found.names == ["dog", "cat"]
    np.testing.assert_array_equal(found[0].box, [2, 1, 12, 31])
    assert [(one.score, one.label, one.name) for one in found] == [
        (0.75, 1, "dog"),
        (0.25, 0, "cat"),
    ]
    assert repr(found) == "<Result: 50×40, 2 detections: dog 0.75, cat 0.25>"


def test_the_certain_ones():
    assert result().above(0.75).names == ["dog"] and len(result().above(0.8)) == 0
    assert result().above(0.8).xyxy.shape == (0, 4) and result().above(0.8).to_yolo() == []


def test_coco_rows_have_the_data_sets_ids_and_names():
    dog = {"category_id": 9, "bbox": [1.0, 2.0, 30.0, 10.0], "score": 0.75}
    assert result().to_coco(3)[0] == {"image_id": 3, **dog, "category_name": "dog"}
    (row, _) = result(path="x/a.jpg").to_coco()
    assert row == {"image_id": "x/a.jpg", "file_name": "x/a.jpg", **dog, "category_name": "dog"}
    with pytest.raises(DataError, match=r"without a path: result\.to_coco\(image_id=…\)"):
        result().to_coco()


def test_coco_rows_of_arrays():
    rows = coco_results(
        "a", np.array([[1.0, 2.0, 11.0, 32.0]]), np.array([0.25]), np.array([1]), NAMES
    )
    assert rows == [
        {"image_id": "a", "category_id": 9, "bbox": [2.0, 1.0, 30.0, 10.0], "score": 0.25}
    ]


def test_yolo_lines_are_shares_of_the_image():
    # Centre (16, 7) and sides (30, 10) of 50×40.
    assert result().to_yolo() == [
        "1 0.320000 0.175000 0.600000 0.250000 0.750000",
        "0 0.500000 0.500000 1.000000 1.000000 0.250000",
    ]


def test_rows_have_corners():
    row = {"filename": "a.jpg", "width": 50, "height": 40, "class": "dog", "score": 0.75}
    row |= {"xmin": 1.0, "ymin": 2.0, "xmax": 31.0, "ymax": 12.0}
    assert result(path="a.jpg").to_rows()[0] == row


def test_supervision_has_its_fields_with_and_without_the_package(monkeypatch):
    found = result()
    np.testing.assert_array_equal(found.xyxy, [[1, 2, 31, 12], [0, 0, 50, 40]])
    assert found.confidence.tolist() == [0.75, 0.25] and found.class_id.tolist() == [1, 0]
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingPackageError, match="pip install supervision"):
        found.to_supervision()
    stand_in = types.SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    fields = found.to_supervision()
    assert fields.keys() == {"xyxy", "confidence", "class_id", "data"}
    assert fields["data"]["class_name"].tolist() == ["dog", "cat"]


def test_supervision_itself_takes_them():
    supervision = pytest.importorskip("supervision")
    found = result().to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 2
    assert list(found[found.confidence > 0.5]["class_name"]) == ["dog"]
    assert len(result().above(0.8).to_supervision()) == 0


def test_a_picture_is_saved_with_boxes(tmp_path):
    result().save(tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.size == (50, 40) and np.asarray(picture).any()
    empty = result().above(0.9)
    empty.save(tmp_path / "b.png")
    assert not np.asarray(Image.open(tmp_path / "b.png")).any()


def test_a_file_is_read_again_to_draw_and_never_overwritten(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (50, 40), (0, 90, 0)).save(path)
    before = path.read_bytes()
    found = result(path=str(path), image=None)
    with pytest.raises(DestinationError, match=r"a\.png' is the image itself"):
        found.save(path)
    (tmp_path / "link.png").symlink_to(path)
    with pytest.raises(DestinationError, match="is the image itself"):
        found.save(tmp_path / "link.png")
    assert path.read_bytes() == before
    found.save(tmp_path / "b.png")
    assert np.asarray(Image.open(tmp_path / "b.png"))[30, 45, 1] == 90
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        found.draw()


def test_a_picture_of_no_known_kind(tmp_path):
    with pytest.raises(DestinationError, match="unknown file extension"):
        result().save(tmp_path / "a.xyz")


def test_a_mask_comes_in_the_images_own_size_and_is_drawn():
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:, 32:] = 2  # The right half; below row 51 is padding.
    masked = Result.of(Masks(pixels), NAMES, (40, 50))
    assert masked.mask.shape == (40, 50) and len(masked) == 0
    assert (masked.mask[:, :25] == 0).all() and (masked.mask[:, 25:] == 2).all()
    assert masked.summary() == "background 50.0%, dog 50.0%"
    assert result().summary() == "2 detections" and result().mask is None
    black = np.zeros((40, 50, 3), np.uint8)
    drawn = dataclasses.replace(masked, image=black).draw()
    assert drawn[30:, 25:].all(axis=(0, 1)).any() and not drawn[30:, :25].any()
