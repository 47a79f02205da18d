import time

import numpy as np
from PIL import Image

from effdet_jax.data import headers
from effdet_jax.data.example import DataError, DataReport
from effdet_jax.data.images import Header

BOX = np.array([[1.0, 1.0, 9.0, 9.0]])


def settle(said, found, boxes=BOX, **options):
    """(size, factors, report) of an image of a set of equal ones."""
    report = DataReport()
    sizes, factors = headers.settle_sizes(
        [said], {0: found}, [boxes], ["image 0"], report, **({"rescale": False} | options)
    )
    return sizes[0], factors, report


def test_headers_of_files_are_read_in_order_and_reasons_in_their_place(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    found = headers.read_headers({3: str(tmp_path / "a.png"), 1: str(tmp_path / "b.png")})
    assert list(found) == [3, 1] and found[3] == Header((30, 40), (30, 40), "RGB")
    assert isinstance(found[1], DataError) and str(found[1]) == "the file is empty"


def test_files_that_take_their_time_are_read_together(monkeypatch):
    monkeypatch.setattr(headers, "_TIMED", 5)
    monkeypatch.setattr(headers, "_read", lambda path: time.sleep(0.02) or DataError(path))
    started = time.monotonic()
    found = headers.read_headers({number: str(number) for number in range(85)})
    assert [str(error) for error in found.values()] == [str(number) for number in range(85)]
    assert time.monotonic() - started < 1.0  # 1.7 s one after the other.


def test_annotations_are_of_the_image_as_stored_or_as_turned():
    turned = Header((40, 30), (30, 40), "RGB")
    size, _, report = settle((30, 40), turned)
    assert size == (30, 40) and report.notes[0].startswith("1 images stay as stored")
    for said in ((40, 30), None):
        size, _, report = settle(said, turned)
        assert size == (40, 30) and report.notes == ["1 images are turned as EXIF says"]


def test_what_another_size_means_is_seen_from_the_boxes():
    upright = Header((30, 40), (30, 40), "RGB")
    size, factors, report = settle((60, 80), upright)
    assert size == (30, 40) and not factors and "made for 80×60, files are 40×30" in report.stops[0]
    size, factors, report = settle((60, 80), upright, rescale=True)
    assert factors[0].tolist() == [0.5] * 4 and not report.stops
    _, factors, report = settle((15, 20), upright, np.array([[1.0, 1.0, 28.0, 38.0]]), rescale=True)
    assert not factors and "boxes are the files'" in report.notes[0]


def test_swapped_sides_are_named():
    size, _, report = settle((40, 30), Header((30, 40), (30, 40), "RGB"))
    assert size == (30, 40) and not report.stops
    assert list(report.faults.values()) == [["image 0: 40×30, annotations say 30×40"]]
