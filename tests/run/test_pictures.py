import numpy as np
import pytest
from PIL import Image

from effdet_jax.detection.postprocess import Detections
from effdet_jax.detection.segment import Masks
from effdet_jax.run.metrics import MetricWriter
from effdet_jax.run.pictures import Pictures
from effdet_jax.run.workdir import Workdir
from tests.doubles import Images


class CountedImages(Images):
    """Counts how often each image is read."""

    def __init__(self, length):
        super().__init__(length)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


@pytest.fixture
def pictures(tmp_path):
    """(pictures, source, workdir)."""
    folder, source = Workdir(tmp_path), CountedImages(20)
    writer = MetricWriter(folder)
    yield Pictures(folder, writer, source), source, tmp_path
    writer.close()


def found(box):
    return Detections(np.array([box], np.float32), np.array([0.9]), np.array([0]), np.array([True]))


def test_detections_are_drawn_on_the_first_images_which_are_read_once(pictures):
    pictures, source, folder = pictures
    for step in (1, 2):
        # Nothing came of image 0; images beyond the ninth aren't drawn.
        pictures.write_detections(step, {1: found((5.0, 10.0, 25.0, 30.0))})
    assert source.read == list(range(9))
    picture = np.asarray(Image.open(folder / "val_detections.jpg"))
    assert picture.shape == (810, 1080, 3)  # 3 × 3 images of 30×40, nine times as large.
    second = picture[:270, 360:720].astype(int)
    assert np.abs(second[220:226, 100:260] - 1).max() > 90  # The lower side of the box.
    assert np.abs(picture[:270, :350].astype(int)).max() < 30  # Image 0, black.


def test_less_certain_detections_than_asked_for_are_not_drawn(pictures):
    pictures, _, folder = pictures
    pictures.write_detections(1, {1: found((5.0, 10.0, 25.0, 30.0))}, 0.91)
    assert np.asarray(Image.open(folder / "val_detections.jpg")).max() < 30


def test_the_batch_is_drawn_without_padding(pictures):
    pictures, _, folder = pictures
    boxes = np.array([[[5.0, 5.0, 60.0, 60.0], [0.0, 0.0, 0.0, 0.0]]] * 2, np.float32)
    labels = np.array([[0, -1], [-1, -1]])
    pictures.write_batch(
        0, {"image": np.zeros((2, 64, 64, 3), np.uint8), "boxes": boxes, "labels": labels}
    )
    picture = np.asarray(Image.open(folder / "train_batch.jpg")).astype(int)
    assert picture.shape == (256, 512, 3)  # Four times as large.
    assert picture[:, :256].max() > 150 and picture[:, 264:].max() < 30


def test_masks_are_drawn_on_batches_and_on_images(pictures):
    pictures, _, folder = pictures
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[:, 32:] = 1
    batch = {
        "image": np.zeros((1, 64, 64, 3), np.uint8),
        "boxes": np.zeros((1, 2, 4), np.float32),
        "labels": np.full((1, 2), -1, np.int32),
        "masks": mask,
    }
    pictures.write_batch(0, batch)
    pictures.write_detections(1, {0: Masks(mask[0])})
    for name in ("train_batch.jpg", "val_detections.jpg"):
        with Image.open(next(folder.rglob(name))) as picture:
            assert np.asarray(picture).max() > 60, f"{name} shows no mask"
