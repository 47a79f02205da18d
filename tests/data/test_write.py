import json

import numpy as np
import pytest
from PIL import Image

from effdet_jax.data.auto import open_auto
from effdet_jax.data.example import DataError
from effdet_jax.data.write import WRITERS, write_dataset
from effdet_jax.files import DestinationError
from tests.doubles import Numbers, source_options

SIZES = ((97, 31), (40, 30))  # Width × height of the images of each split.
BOXES = ([0, 0, 97, 31], [3, 5, 8, 7], [10.5, 2.25, 20, 20.125])  # As COCO has them.


@pytest.fixture
def folder(tmp_path):
    """Two splits with two images each, one in a folder of its own, of one name."""
    root = tmp_path / "set"
    for split in ("train", "val"):
        images, rows = [], []
        for number, (width, height) in enumerate(SIZES):
            name = f"{split}/{number}/frame.png"
            (root / name).parent.mkdir(parents=True)
            Image.new("RGB", (width, height), (number, 0, 0)).save(root / name)
            images.append({"id": 70 + number, "file_name": name, "width": width, "height": height})
        for number, box in enumerate(BOXES):
            row = {"id": number, "image_id": 70, "category_id": (9, 4)[number % 2], "bbox": box}
            rows.append(row | {"iscrowd": int(number == 1), "area": 5 if number == 2 else None})
        categories = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]
        content = {"images": images, "annotations": rows, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def opened(folder, split):
    return open_auto(split, source_options(dir=str(folder)))


def both(folder):
    return {split: opened(folder, split) for split in ("train", "val")}


def boxes(source, *, crowds):
    """{(width, name of the class, yxyx box)} of all images."""
    return {
        (truth.size[1], source.class_names.names[label], *box)
        for truth in source.ground_truth()
        for box, label, crowd in zip(truth.boxes.tolist(), truth.labels, truth.crowd)
        if crowds or not crowd
    }


@pytest.mark.parametrize("first", list(WRITERS))
@pytest.mark.parametrize("second", list(WRITERS))
def test_boxes_are_exact_through_any_two_formats(folder, tmp_path, first, second):
    sources = both(folder)
    write_dataset(sources, first, str(tmp_path / "one"))
    write_dataset(both(tmp_path / "one"), second, str(tmp_path / "two"))
    crowds = "yolo" not in (first, second)
    for split, source in sources.items():
        written = opened(tmp_path / "two", split)
        assert boxes(written, crowds=crowds) == boxes(source, crowds=crowds)
        assert (len(written), written.report.crowd) == (2, int(crowds))
        assert sorted(written[index].image[0, 0, 0] for index in range(2)) == [0, 1]


def test_coco_keeps_ids_areas_and_crowds(folder, tmp_path):
    (line,) = write_dataset(both(folder), "coco", str(tmp_path / "out"))
    assert line.endswith("out (coco): 2 images of train, 2 images of val, copied")
    content = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    assert [image["id"] for image in content["images"]] == [70, 71]
    assert [row["bbox"] for row in content["annotations"]] == [list(map(float, b)) for b in BOXES]
    assert [row["category_id"] for row in content["annotations"]] == [9, 4, 9]
    assert [row["iscrowd"] for row in content["annotations"]] == [0, 1, 0]
    assert content["annotations"][2]["area"] == 5


def test_voc_counts_pixels_from_1(folder, tmp_path):
    write_dataset({"train": opened(folder, "train")}, "voc", str(tmp_path / "out"))
    text = (tmp_path / "out/Annotations/frame.xml").read_text()
    assert "<xmin>4</xmin>" in text and "<ymin>6</ymin>" in text  # [3, 5, 8, 7]: 4 … 11, 6 … 12.
    assert "<xmax>11</xmax>" in text and "<ymax>12</ymax>" in text
    assert (tmp_path / "out/ImageSets/Main/train.txt").read_text() == "frame\nframe_2\n"


def test_yolo_leaves_crowds_out_and_says_so(folder, tmp_path):
    lines = write_dataset(both(folder), "yolo", str(tmp_path / "out"))
    assert lines[1] == "2 crowd boxes left out: this format has none"
    rows = (tmp_path / "out/labels/train/frame.txt").read_text().splitlines()
    assert rows[0] == "1 0.5 0.5 1.0 1.0" and len(rows) == 2
    assert "train: images/train" in (tmp_path / "out/data.yaml").read_text()


def test_an_image_whose_orientation_its_boxes_disregard_is_written_without(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored lying on its side.
    path = folder / "train/0/frame.png"
    Image.open(path).save(path, exif=exif)
    lines = write_dataset({"train": opened(folder, "train")}, "yolo", str(tmp_path / "out"))
    assert lines[-1].startswith("1 images whose boxes disregard their EXIF orientation")
    written = open_auto("train", source_options(dir=str(tmp_path / "out"), val_fraction=0.0))
    assert boxes(written, crowds=False) == boxes(opened(folder, "train"), crowds=False)


def test_nothing_is_written_over_or_beside(folder, tmp_path):
    before = sorted(folder.rglob("*"))
    (tmp_path / "out").mkdir()
    write_dataset(both(folder), "voc", str(tmp_path / "out"))
    with pytest.raises(DestinationError):
        write_dataset(both(folder), "voc", str(tmp_path / "out"))
    assert sorted(folder.rglob("*")) == before
    np.testing.assert_array_equal(
        np.array(Image.open(tmp_path / "out/JPEGImages/frame.png")),
        np.array(Image.open(folder / "train/0/frame.png")),
    )


def test_what_cannot_be_written_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="--write=tfrecord isn't one of coco, voc, yolo"):
        write_dataset(both(folder), "tfrecord", str(tmp_path / "out"))
    with pytest.raises(DataError, match="the train data are no files"):
        write_dataset({"train": Numbers()}, "coco", str(tmp_path / "out"))
