import numpy as np

from effdet_jax.data.example import DataReport, make_truth, unreadable


def test_report_counts_by_reason_and_names_the_first():
    report = DataReport()
    report.images, report.boxes, report.empty = 10, 20, 3
    for number in range(5):
        report.drop("box without width or height", f"annotation {number}")
    report.drop("image file is missing", "a.jpg")
    assert report.dropped == {"box without width or height": 5, "image file is missing": 1}
    assert report.lines() == [
        "10 images (3 without boxes), 20 boxes",
        "5 × box without width or height, first: annotation 0; annotation 1; annotation 2",
        "1 × image file is missing, first: a.jpg",
    ]


def test_truth_without_rows_has_the_right_shapes():
    truth = make_truth("a", (3, 4))
    assert truth.boxes.shape == (0, 4) and truth.labels.dtype == np.int32


def test_an_unreadable_image_is_black_and_has_no_boxes():
    example = unreadable("a", (3, 4), "broken")
    assert example.image.shape == (3, 4, 3) and not example.image.any()
    assert example.error == "broken" and len(example.truth.boxes) == 0
