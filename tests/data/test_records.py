import math
import pathlib

import numpy as np
import pytest
from PIL import Image

from effdet_jax.classes import ClassNames
from effdet_jax.config import get_config
from effdet_jax.data import headers
from effdet_jax.data.example import DataError, DataReport
from effdet_jax.data.pipeline import train_batches
from effdet_jax.data.records import Annotation, Record, RecordSource, check_options
from effdet_jax.data.sample import AugmentSettings
from effdet_jax.data.source import SOURCES, open_source

NAMES = ClassNames.from_names(("cat", "dog"))
SOUND = Annotation((6, 4, 16, 24), 1, "line 1")


@pytest.fixture
def folder(tmp_path):
    """30 images of 40×30 (width × height)."""
    for number in range(30):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def make(folder, *changed, **options):
    """A source of the 30 images with one sound box each; `changed` are records in place of them."""
    by_name = {record.file_name: record for record in changed}
    sound = [Record(number, f"{number}.png", (30, 40), [SOUND]) for number in range(30)]
    listed = [by_name.get(record.file_name, record) for record in sound]
    return RecordSource(listed, NAMES, str(folder), **({"name": "sets/a.txt"} | options))


def first(*annotations, size=(30, 40)):
    return Record(0, "0.png", size, annotations)


def test_records_become_examples(folder):
    source = make(folder)
    assert len(source) == 30 and source.report.lines() == ["30 images (0 without boxes), 30 boxes"]
    example = source[3]
    assert example.image.shape == (30, 40, 3) and example.image[0, 0, 0] == 3 and not example.error
    np.testing.assert_array_equal(example.truth.boxes, [[6, 4, 16, 24]])
    assert example.truth.labels.tolist() == [1] and example.truth.area.tolist() == [10 * 20]
    assert source.describe(3) == "image 3 '3.png'"
    assert [truth.image_id for truth in source.ground_truth()] == list(range(30))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"box": (1, 1, 5, 1)}, "box without width or height"),
        ({"box": (9, 9, 5, 12)}, "box without width or height"),
        ({"box": (1, math.nan, 5, 5)}, "box that isn't four finite numbers"),
        ({"box": (1, 1, math.inf, 5)}, "box that isn't four finite numbers"),
        ({"box": (1, 1, 5)}, "box that isn't four finite numbers"),
        ({"box": "1155"}, "box that isn't four finite numbers"),
        ({"box": None}, "box that isn't four finite numbers"),
        ({"box": (30, 1, 35, 5)}, "box outside its image"),
        ({"box": (-9, -9, 0, 5)}, "box outside its image"),
        ({"label": None}, "box of a category that isn't listed"),
        ({"label": 2}, "box of a category that isn't listed"),
        ({"label": -1}, "box of a category that isn't listed"),
    ],
)
def test_bad_boxes_are_left_out_counted_and_named(folder, bad, reason):
    changed = first(SOUND, SOUND._replace(**bad, where="line 2"))
    source = make(folder, changed)
    assert source.report.dropped == {reason: 1} and len(source[0].truth.boxes) == 1
    assert source.report.lines()[1] == f"1 × {reason}, first: a.txt: image 0 '0.png': line 2"
    with pytest.raises(DataError, match=rf"^sets/a.txt: 1 × {reason}"):
        make(folder, changed, strict=True)


def test_a_box_reaching_out_is_kept_and_counted(folder):
    source = make(folder, first(SOUND._replace(box=(20, 30, 60, 70))))
    assert source.report.dropped == {"box reaching out of its image (cut there)": 1}
    assert source.report.boxes == 30
    assert not make(folder, first(SOUND._replace(box=(-1, -1, 31, 41)))).report.dropped  # Rounding.


def test_crowds_areas_and_empty_images_are_counted(folder):
    source = make(folder, first(SOUND._replace(crowd=True, area=7.5)), Record(1, "1.png", None, []))
    assert source[0].truth.crowd.tolist() == [True] and source[0].truth.area.tolist() == [7.5]
    assert (source.report.crowd, source.report.empty, source.report.boxes) == (1, 1, 29)


def test_a_size_that_is_not_given_is_the_files(folder):
    source = make(folder, first(SOUND, size=None))
    assert source[0].truth.size == (30, 40) and source.report.dropped == {}


def test_the_file_counts_where_its_size_differs_from_the_annotations(folder):
    source = make(folder, first(SOUND, size=(60, 80)))
    assert source[0].truth.size == (30, 40)
    assert "image 0 '0.png': 40×30, annotations say 80×60" in source.report.lines()[1]


def test_the_size_of_an_image_as_stored_or_as_turned_is_kept(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored lying on its side.
    Image.new("RGB", (40, 30)).save(folder / "0.png", exif=exif)
    for size in ((30, 40), (40, 30)):
        source = make(folder, first(SOUND, size=size))
        assert source.report.dropped == {} and source[0].image.shape[:2] == size


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "image file is missing"),
        (lambda path: path.write_bytes(b""), "image file can't be read"),
        (lambda path: path.write_bytes(b"not an image"), "image file can't be read"),
    ],
)
def test_a_missing_or_broken_file_is_left_out_and_named(folder, damage, reason):
    damage(folder / "7.png")
    source = make(folder)
    assert len(source) == 29 and source.report.dropped == {reason: 1}
    assert "image 7 '7.png'" in source.report.lines()[1]


def test_headers_of_a_large_set_are_read_only_for_sizes(folder, monkeypatch):
    monkeypatch.setattr(headers, "HEADERS_CHECKED", 15)  # Of 30: every other one.
    (folder / "7.png").write_bytes(b"")
    source = make(folder, first(SOUND, size=None))
    assert len(source) == 30 and source[0].truth.size == (30, 40)
    assert source.report.lines()[-1] == "file headers checked of 15 images, not of 15"
    assert "the file is empty" in source[7].error


def test_a_truncated_image_is_found_at_the_start(folder, rng):
    noise = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "0.png")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:500])
    source = make(folder)
    assert len(source) == 29 and "image 0 '0.png': not a readable image" in source.report.lines()[1]


def test_many_missing_files_are_an_error_with_advice(folder):
    (folder / "0.png").unlink()
    assert len(make(folder)) == 29  # 1 of 30 is tolerated,
    (folder / "1.png").unlink()
    with pytest.raises(
        DataError, match=r"2 of 30 images can't be read.*--config.data.train_images"
    ):
        make(folder)


def test_nothing_usable_is_an_error(folder):
    with pytest.raises(DataError, match=r"a.txt: no usable images"):
        RecordSource([], NAMES, str(folder), name="a.txt")
    with pytest.raises(DataError, match="none of its 1 images has a usable box"):
        RecordSource([Record(0, "0.png", None, [])], NAMES, str(folder), name="a.txt")


def test_what_the_reader_has_left_out_is_reported_too(folder):
    report = DataReport()
    report.drop("line that isn't five numbers", "0.txt: line 3")
    assert make(folder, report=report).report.dropped == {"line that isn't five numbers": 1}
    with pytest.raises(DataError, match="line that isn't five numbers"):
        make(folder, report=report, strict=True)


def open_lines(split, options):
    """A toy format: a line per box, 'file label ymin xmin ymax xmax'."""
    path = f"{options['dir']}/{split}.txt"
    records = []
    for number, line in enumerate(pathlib.Path(path).read_text("utf-8").splitlines()):
        name, label, *box = line.split()
        where = f"line {number + 1} is '{line}'"
        records.append(
            Record(number, name, None, [Annotation([*map(float, box)], int(label), where)])
        )
    return RecordSource(records, NAMES, options["dir"], name=path, **check_options(options))


def test_a_new_format_is_a_reader_and_an_entry(folder, monkeypatch):
    lines = [f"{number}.png {number % 2} 6 4 16 24" for number in range(30)]
    lines[4] = "4.png 0 6 4 6 24"
    (folder / "train.txt").write_text("\n".join(lines))
    monkeypatch.setitem(SOURCES, "lines", open_lines)
    options = get_config().data.to_dict() | {"dir": str(folder)}
    source = open_source("lines", "train", options)
    assert source.report.lines()[1].endswith(
        "train.txt: image 4 '4.png': line 5 is '4.png 0 6 4 6 24'"
    )
    augment = AugmentSettings((30, 40), ops=())
    batch = next(train_batches(source, augment, batch_size=30, max_boxes=1))
    assert sorted(batch["index"]) == list(range(30))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    for index, box, label in zip(batch["index"], batch["boxes"][:, 0], batch["labels"][:, 0]):
        assert label == (-1 if index == 4 else index % 2)
        assert box.tolist() == ([0] * 4 if index == 4 else [6, 4, 16, 24])
    with pytest.raises(DataError, match="box without width or height"):
        open_source("lines", "train", options | {"strict": True})
