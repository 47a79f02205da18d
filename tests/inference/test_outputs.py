import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from effdet_jax.classes import ClassNames
from effdet_jax.data.tables import read_rows
from effdet_jax.files import DestinationError
from effdet_jax.inference.outputs import FORMATS, WRITTEN, OutputFolder, Outputs
from effdet_jax.inference.result import Result

NAMES = ClassNames(("猫", "two\nlines"), (3, 4))


def result(path, label=0):
    box, score = np.array([[1, 2, 11, 22]], np.float32), np.array([0.5], np.float32)
    return Result(box, score, np.array([label]), NAMES, (40, 50), path=path)


def lines(path):
    return path.read_text("utf-8").splitlines()


def test_rows_are_there_as_soon_as_they_are_added(tmp_path):
    folder = OutputFolder(str(tmp_path / "found"), [], [])
    with Outputs(folder, "coco", NAMES) as outputs:
        outputs.add(result("a.jpg"))
        outputs.add(result("b.jpg").above(0.9))
        rows = [json.loads(line) for line in lines(tmp_path / "found" / "detections.jsonl")]
        assert not (tmp_path / "found" / "detections.json").exists()
    image = {"file_name": "a.jpg", "width": 50, "height": 40}
    row = {"image_id": "a.jpg", "category_id": 3, "bbox": [2.0, 1.0, 20.0, 10.0], "score": 0.5}
    row |= {"file_name": "a.jpg", "category_name": "猫"}
    empty = {"file_name": "b.jpg", "width": 50, "height": 40, "detections": []}
    assert rows == [image | {"detections": [row]}, empty]
    assert json.loads((tmp_path / "found" / "detections.json").read_text()) == [row]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_added_is_whole_when_the_run_breaks_off(tmp_path, kind):
    folder = OutputFolder(str(tmp_path), [], [])
    with pytest.raises(KeyboardInterrupt), Outputs(folder, kind, NAMES) as outputs:
        outputs.add(result("a.jpg"), "labels/a.txt")
        raise KeyboardInterrupt
    assert len(lines(tmp_path / "detections.jsonl")) == 1
    if kind == "coco":
        assert len(json.loads((tmp_path / "detections.json").read_text())) == 1
    elif kind == "csv":
        (row,) = csv.DictReader(lines(tmp_path / "detections.csv"))
        assert (row["filename"], row["class"], row["xmax"]) == ("a.jpg", "猫", "22.0")
    else:
        assert lines(tmp_path / "labels" / "a.txt")[0].startswith("0 0.24")  # (2 + 22) / 2 of 50.
        assert lines(tmp_path / "classes.txt") == ["猫", "two lines"]


def test_the_csv_is_one_that_training_reads(tmp_path):
    with Outputs(OutputFolder(str(tmp_path), [], []), "csv", NAMES) as outputs:
        outputs.add(result("a.jpg"))
    table = read_rows(str(tmp_path / "detections.csv"))
    ((_, cells),) = table.rows
    found = {what: cells[place] for what, place in table.columns.items()}
    assert (found["file"], found["class"]) == ("a.jpg", "猫")
    assert [float(found[side]) for side in ("xmin", "ymin", "xmax", "ymax")] == [2, 1, 22, 11]


def test_frames_have_their_number_and_time(tmp_path):
    with Outputs(OutputFolder(str(tmp_path), [], []), "coco", NAMES) as outputs:
        outputs.add(result("a.mp4"), frame=12, seconds=0.4)
    (line,) = (json.loads(line) for line in lines(tmp_path / "detections.jsonl"))
    assert (line["frame"], line["seconds"]) == (12, 0.4)
    (row,) = json.loads((tmp_path / "detections.json").read_text())
    assert (row["image_id"], row["frame"], row["seconds"]) == ("a.mp4#12", 12, 0.4)


def test_only_what_it_wrote_itself_is_overwritten(tmp_path):
    planned = ["a.jpg", "sub/b.jpg"]
    first = OutputFolder(str(tmp_path), planned, [])
    with open(first.claim("sub/b.jpg"), "w") as file:
        file.write("ours")
    assert lines(tmp_path / WRITTEN) == ["sub/b.jpg"]
    OutputFolder(str(tmp_path), planned, []).claim("sub/b.jpg")
    assert lines(tmp_path / WRITTEN) == ["sub/b.jpg"]
    (tmp_path / "a.jpg").write_text("a photograph")
    with pytest.raises(DestinationError, match="a.jpg' exists and isn't in .*written_by_predict"):
        OutputFolder(str(tmp_path), planned, [])
    with pytest.raises(DestinationError, match="exists"):
        first.claim("a.jpg")
    assert (tmp_path / "a.jpg").read_text() == "a photograph"


def test_an_input_is_never_written_to_not_even_one_it_wrote(tmp_path):
    path = OutputFolder(str(tmp_path), [], []).claim("a.jpg")
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        with pytest.raises(DestinationError, match="a.jpg' is one of the files to look at"):
            OutputFolder(str(folder), ["a.jpg"], [path])


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DestinationError, match="file is a file; give a folder"):
        OutputFolder(str(tmp_path / "file"), [], [])
    with pytest.raises(DestinationError, match="can't write .*Not a directory"):
        OutputFolder(str(tmp_path / "file" / "below"), [], []).claim("a.jpg")


def test_a_mask_is_a_file_of_its_values_and_says_what_they_mean(tmp_path):
    mask = np.zeros((40, 50), np.uint8)
    mask[3, 4] = 2
    masked = dataclasses.replace(result("a.jpg"), mask=mask)
    folder = OutputFolder(str(tmp_path), [], [])
    with Outputs(folder, "coco", NAMES) as outputs:
        outputs.add(masked, mask="masks/a.png")
        outputs.add(dataclasses.replace(masked, path="b.jpg"), mask="masks/b.png")
        outputs.add(result("c.jpg"), mask="masks/c.png")
    assert sorted(one.name for one in (tmp_path / "masks").iterdir()) == [
        "a.png",
        "b.png",
        "classes.txt",
    ]
    with Image.open(tmp_path / "masks" / "a.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), mask)
    assert lines(tmp_path / "masks" / "classes.txt") == ["0 background", "1 猫", "2 two lines"]
    rows = [json.loads(line) for line in lines(tmp_path / "detections.jsonl")]
    assert [row.get("mask") for row in rows] == ["masks/a.png", "masks/b.png", None]
