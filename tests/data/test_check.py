"""Faults of whole sets: what no single record shows."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from effdet_jax.config import get_config
from effdet_jax.data.check import note_copies, same_content, suspect_order
from effdet_jax.data.example import DataError, DataReport, coco_dataset
from effdet_jax.data.source import open_source
from effdet_jax.evaluation.coco import evaluate_coco
from effdet_jax.inference.result import coco_results

WIDTH, HEIGHT = 120, 80


def folder(root, split="train", *, each=None, images=6, json_size=(WIDTH, HEIGHT), **changes):
    """Images of 120×80 noise with two boxes each; `each` changes an annotation, by its position."""
    rng = np.random.default_rng(len(split))
    listed, annotations = [], []
    for number in range(images):
        name = f"{split}{number}.jpg"
        noise = rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / name)
        listed.append(
            {"id": number, "file_name": name, "width": json_size[0], "height": json_size[1]}
        )
        for box in ([10 + number, 10, 30, 25], [45, 40 + number, 31, 26]):
            row = {"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box}
            annotations.append(row)
    for position, annotation in enumerate(annotations):
        annotation |= each(position, annotation["bbox"]) if each else {}
    content = {
        "images": listed,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / f"{split}.json").write_text(json.dumps(content | changes))
    return content


def opened(root, split="train", **knobs):
    options = get_config().data.to_dict() | {"dir": str(root), "val_fraction": 0.0}
    return open_source("coco", split, options | knobs)


def perfect_ap(source):
    """AP of a detector that finds exactly the ground truth."""
    truths, names = list(source.ground_truth()), source.class_names
    rows = [
        row
        for truth in truths
        for row in coco_results(
            truth.image_id, truth.boxes, np.ones(len(truth.boxes)), truth.labels, names
        )
    ]
    return evaluate_coco(coco_dataset(truths, names), rows).summary["AP"]


def normalised(_, box):
    x, y, width, height = box
    return {"bbox": [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT]}


# What is wrong with a set → what training says as it refuses it.
REFUSED = {
    "normalised": ({"each": normalised}, r"all 12 boxes lie between 0.083.*\(normalised\)"),
    "x1 y1 x2 y2": (
        {"each": lambda _, box: {"bbox": [55, 40, 85, 65]}},
        r"12 of 12 boxes reach out.*12 fit if they are \[x1, y1, x2, y2\]",
    ),
    "turned": (
        {"each": lambda _, box: {"bbox": [5, 70, 30, 45]}},
        r"12 fit if they are \[y, x, height, width\], or boxes of images turned by 90°",
    ),
    "outside": (
        {"each": lambda number, box: {"bbox": [150, 90, 9, 9]} if number % 2 else {}},
        "6 of 12 boxes: box outside its image; they may have been made for larger images",
    ),
    "not listed": (
        {"each": lambda number, _: {"category_id": 77} if number % 2 else {}},
        "6 of 12 boxes: box of a category that isn't listed; the list of categories",
    ),
    "other size": (
        {"json_size": (240, 160), "each": lambda _, box: {"bbox": [2 * side for side in box]}},
        "annotations were made for 240×160, files are 120×80: 6 of 6 images.*data.rescale=True",
    ),
    "other shape": ({"json_size": (240, 240)}, "made for 240×240, files are 120×80, of another"),
    "all crowd": ({"each": lambda *_: {"iscrowd": 1}}, "every box is a crowd"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_set_with_a_fault_that_cant_be_chance_is_refused(tmp_path, changes, message):
    folder(tmp_path, **changes)
    with pytest.raises(
        DataError, match=f"(?s)train.json: .*{message}.*data.tolerate=True"
    ) as error:
        opened(tmp_path)
    assert error.value.report.stops


def test_whoever_tolerates_it_goes_on(tmp_path):
    folder(tmp_path, each=REFUSED["outside"][0]["each"])
    source = opened(tmp_path, tolerate=True)
    assert source.report.boxes == 6 and source.report.lines()[2].startswith("tolerated: 6 of 12")


# What is wrong with a set → what is counted, how many boxes stay.
NAMED = {
    "one category isn't listed": (
        {"each": lambda number, _: {} if number else {"category_id": 77}},
        {"box of a category that isn't listed": 1},
        11,
    ),
    "sides swapped": (
        {"json_size": (80, 120), "each": lambda number, _: {"bbox": [85, 20 + number, 25, 20]}},
        {"image whose annotations swap width and height (the file counts)": 6},
        12,
    ),
    "sizes smaller than the files": (
        {"json_size": (60, 40), "each": lambda number, _: {"bbox": [65, 40 + number, 25, 20]}},
        {"image of another size than its annotations say": 6},
        12,
    ),
    "there twice": (
        {"each": lambda number, _: {"bbox": [10, 10, 30, 25]}},
        {"box that is there twice": 6},
        6,
    ),
    "a truth value": (
        {"each": lambda number, _: {} if number else {"bbox": [True, True, 10, 10]}},
        {"box that isn't four finite numbers": 1},
        11,
    ),
    "half a pixel": (
        {"each": lambda number, _: {} if number else {"bbox": [119.5, 10, 30, 10]}},
        {"box smaller than a pixel": 1},
        11,
    ),
    "reaching out": (
        {"each": lambda number, _: {} if number else {"bbox": [110, 70, 100, 100]}},
        {"box reaching out of its image (cut there)": 1},
        12,
    ),
    "impossible areas": (
        {"each": lambda number, _: {"area": (-1, 0, float("nan"), True, "big")[number % 5]}},
        {"area that is no number of pixels (the box's is taken)": 9},
        12,
    ),
}


@pytest.mark.parametrize(("changes", "faults", "boxes"), NAMED.values(), ids=NAMED)
def test_what_can_be_chance_is_named_and_a_perfect_detector_is_perfect(
    tmp_path, changes, faults, boxes
):
    folder(tmp_path, **changes)
    source = opened(tmp_path)
    assert source.report.dropped == faults and source.report.boxes == boxes
    assert perfect_ap(source) == pytest.approx(1.0)


def test_boxes_are_scaled_if_asked(tmp_path):
    folder(tmp_path, json_size=(240, 160), each=lambda _, box: {"bbox": [2 * s for s in box]})
    source = opened(tmp_path, rescale=True)
    np.testing.assert_array_equal(source[0].truth.boxes, [[10, 10, 35, 40], [40, 45, 66, 76]])
    assert any("boxes of 6 images are scaled" in note for note in source.report.notes)


def test_numbers_that_may_be_corners_are_a_note():
    report = DataReport()
    boxes = np.array([[10 + n, 10, 35 + 2 * n, 40] for n in range(12)], float)
    suspect_order(boxes, np.full((12, 2), 100.0), report)
    assert not report.stops and "every box would also be one as [x1, y1, x2, y2]" in report.notes[0]


def test_a_class_without_boxes_is_named(tmp_path):
    folder(tmp_path, categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "ghost"}])
    report = opened(tmp_path).report
    assert report.classes == {"cat": 12, "ghost": 0}
    assert "classes without a box, which can't be learned: ghost" in report.notes


def test_files_with_the_same_bytes_are_found(tmp_path):
    beginning = bytes(20_000)
    for name, data in {"a": beginning, "b": beginning[1:] + b"1", "c": beginning, "d": b""}.items():
        (tmp_path / name).write_bytes(data)
    paths = [os.path.join(tmp_path, name) for name in "abcd"]
    assert same_content([*paths, str(tmp_path / "gone")]) == [[paths[0], paths[2]]]


def test_images_of_both_splits_and_copies_are_counted(tmp_path):
    folder(tmp_path)
    content = folder(tmp_path, "val")
    (tmp_path / "val0.jpg").write_bytes((tmp_path / "train3.jpg").read_bytes())
    (tmp_path / "train1.jpg").write_bytes((tmp_path / "train2.jpg").read_bytes())
    content["images"][5]["file_name"] = "train5.jpg"
    (tmp_path / "val.json").write_text(json.dumps(content))
    sources = {split: opened(tmp_path, split) for split in ("train", "val")}
    note_copies(sources, most=11)
    assert "weren't looked for: more than 11" in sources["val"].report.notes[-1]
    assert not sources["val"].report.faults
    note_copies(sources, most=12)
    assert sources["train"].report.faults == {
        "image that is there twice, under other names": ["image 2 'train2.jpg' is image 1 'train1.jpg'"]
    }  # fmt: skip
    assert sources["val"].report.faults == {
        "image that is in the train data, too": [
            "image 5 'train5.jpg' is image 5 'train5.jpg'",
            "image 0 'val0.jpg' is image 3 'train3.jpg'",
        ]
    }
