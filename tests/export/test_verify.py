import numpy as np
import pytest

from effdet_jax.export.verify import Comparison, ExportError, compare, rendered_batches, run_here


def result(**changes):
    boxes = np.zeros((1, 3, 4), np.float32)
    boxes[0, 1, 2] = 5.0
    return {
        "boxes": boxes,
        "scores": np.array([[0.9, 0.5, 0.0]], np.float32),
        "valid": np.array([[True, True, False]]),
        **changes,
    }


def test_batches_are_of_one_and_three_images_with_padding():
    one, three = rendered_batches((64, 96))
    assert one["image"].shape == (1, 64, 96, 3) and one["image"].dtype == np.uint8
    np.testing.assert_array_equal(three["content"], [(64, 96), (32, 96), (64, 48)])
    assert not three["image"][1, 32:].any() and not three["image"][2, :, 48:].any()
    assert three["image"][1, :32].std() > 5
    np.testing.assert_array_equal(one["image"][0], three["image"][0])


def test_run_here_runs_every_batch():
    def function(image, content):
        return {"sum": (image.astype("int32").sum((1, 2, 3)) + content[:, 0]).astype("float32")}

    batch = {"image": np.ones((2, 4, 4, 3), np.uint8), "content": np.array([(4, 4), (2, 4)])}
    (found,) = run_here(function, [batch])
    np.testing.assert_array_equal(found["sum"], [52.0, 50.0])


def test_equal_results():
    assert compare([result(), result()], [result(), result()], 0.0) == Comparison(4, 4, 0.0)


@pytest.mark.parametrize(
    ("index", "amount", "tolerance", "equal"),
    [
        ((0, 1, 2), 0.25, 0.0, 1),
        ((0, 1, 2), 0.25, 0.3, 2),
        ((0, 2, 0), 0.25, 0.0, 2),  # A row that holds nothing differs: no detection, but a number.
    ],
)
def test_a_difference_is_seen(index, amount, tolerance, equal):
    boxes = result()["boxes"].copy()
    boxes[index] += amount
    assert compare([result()], [result(boxes=boxes)], tolerance) == Comparison(2, equal, 0.25)


def test_no_number_is_the_largest_difference():
    scores = np.array([[np.nan, 0.5, 0.0]], np.float32)
    assert compare([result()], [result(scores=scores)], 1.0) == Comparison(2, 1, np.inf)


def test_other_shapes_or_names_are_refused():
    with pytest.raises(ExportError, match=r"float32\[1, 2, 4\].* where the model gives .*1, 3, 4"):
        compare([result()], [result(boxes=np.zeros((1, 2, 4), np.float32))], 0.0)
    with pytest.raises(ExportError, match="where the model gives"):
        compare([result()], [{"boxes": result()["boxes"]}], 0.0)
