import numpy as np
import pytest

from effdet_jax.data.example import DataError
from effdet_jax.data.pipeline import draw_sample, eval_batches, touched_cells, train_batches
from effdet_jax.data.sample import AugmentSettings
from effdet_jax.data.synthetic import Shapes
from tests.doubles import Numbers, Truths, row


def take(count, source=None, ops=("flip", "scale_jitter", "colour"), **options):
    defaults = {"batch_size": 4, "max_boxes": 3, "seed": 5}
    augment = AugmentSettings((32, 32), ops)
    batches = train_batches(source or Numbers(), augment, **(defaults | options))
    return [next(batches) for _ in range(count)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_batch_holds_what_it_says():
    (batch,) = take(1)
    shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
    assert shapes == {
        "image": ((4, 32, 32, 3), "uint8"),
        "content": ((4, 2), "int32"),
        "boxes": ((4, 3, 4), "float32"),
        "labels": ((4, 3), "int32"),
        "ignored": ((4, 4, 4), "bool"),
        "valid": ((4,), "bool"),
        "index": ((4,), "int64"),
        "dropped": ((4,), "int32"),
    }
    assert (batch["labels"][:, 1:] == -1).all()
    for image, (height, width) in zip(batch["image"], batch["content"]):
        assert not image[height:].any() and not image[:, width:].any()


def test_every_example_exactly_once_per_epoch_and_a_new_order_each():
    seen = np.concatenate([batch["index"] for batch in take(13)])  # four epochs of 13
    epochs = seen.reshape(4, 13)
    for epoch in epochs:
        assert sorted(epoch) == list(range(13))
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("start", [1, 7])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_step_can_be_started_from_with_any_workers(start, workers):
    assert_same(take(3, start_step=start, workers=workers), take(start + 3)[start:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batches(hosts):
    whole = take(3, start_step=2)
    parts = [
        take(3, start_step=2, process_index=host, process_count=hosts) for host in range(hosts)
    ]
    for step, batch in enumerate(whole):
        rebuilt = np.concatenate([part[step]["image"] for part in parts])
        np.testing.assert_array_equal(rebuilt, batch["image"])


def test_seeds_differ():
    assert (take(1, seed=1)[0]["index"] != take(1, seed=2)[0]["index"]).any()


def test_an_endless_source_is_asked_for_ever_new_examples():
    source = Numbers(5)
    source.endless = True
    seen = np.concatenate([batch["index"] for batch in take(6, source)])
    np.testing.assert_array_equal(seen, np.arange(24))


def test_broken_images_are_marked_invalid():
    batches = take(4, Numbers(13, broken=[6]))
    rows = [
        (index, valid) for batch in batches for index, valid in zip(batch["index"], batch["valid"])
    ]
    assert all(valid == (index != 6) for index, valid in rows)


def test_boxes_beyond_the_slots_are_counted():
    (batch,) = take(1, Numbers(boxes=8), ops=())
    assert (batch["dropped"] == 5).all() and (batch["labels"] >= 0).all()


# One image, 32×32: four boxes in the corners, one cell of 8 px each.
CORNERS = [(0, 0, 6, 6), (0, 26, 6, 32), (26, 0, 32, 6), (26, 26, 32, 32)]
CORNER_CELLS = ((0, 0), (0, 3), (3, 0), (3, 3))


def corners(**options):
    """20 batches of the one image."""
    source = Truths([[row(number, box) for number, box in enumerate(CORNERS)]], "abcd", (32, 32))
    return take(20, source, ops=(), batch_size=1, **options)


def test_other_boxes_are_left_out_each_epoch_and_ignored():
    left_out = set()
    for batch in corners(max_boxes=3):
        trained = batch["labels"][0].tolist()
        (missing,) = {0, 1, 2, 3} - set(trained)
        assert trained == sorted(trained)  # In the order of the file.
        expected = np.zeros((4, 4), bool)
        expected[CORNER_CELLS[missing]] = True
        np.testing.assert_array_equal(batch["ignored"][0], expected)
        assert batch["dropped"] == 1
        left_out.add(missing)
    assert left_out == {0, 1, 2, 3}


def test_nothing_is_ignored_where_every_box_has_a_slot():
    for batch in corners(max_boxes=4):
        assert batch["labels"][0].tolist() == [0, 1, 2, 3] and not batch["ignored"].any()


def test_cells_are_touched_by_any_part_of_a_box():
    # 20×30 px are 3×4 cells of 20/3 × 7.5 px: rows 1.05 … 1.2, columns 0.93 … 1.07.
    found = touched_cells(np.array([[7.0, 7.0, 8.0, 8.0]]), (20, 30))
    np.testing.assert_array_equal(found, [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert not touched_cells(np.zeros((0, 4)), (20, 30)).any()


def repeated(steps, **options):
    repeats = np.ones(10)
    repeats[3], repeats[7] = 2.5, 1.3  # 11.8, so 12 positions in a round.
    return take(steps, Numbers(10), repeats=repeats, **options)


def test_images_are_repeated_as_often_as_asked_on_average():
    seen = np.concatenate([batch["index"] for batch in repeated(300)]).reshape(100, 12)
    counts = np.array([np.bincount(epoch, minlength=10) for epoch in seen])
    assert (counts >= 1).all() and set(counts[:, 3]) == {2, 3} and counts[:, 7].max() == 2
    # 12 positions for 11.8: 1.017 times as often.
    np.testing.assert_allclose(counts[:, 3].mean(), 2.5 * 12 / 11.8, atol=0.15)
    np.testing.assert_allclose(counts[:, 7].mean(), 1.3 * 12 / 11.8, atol=0.15)
    assert len({tuple(epoch) for epoch in seen}) > 90


@pytest.mark.parametrize("workers", [0, 2])
def test_repeats_can_be_started_from_any_step(workers):
    assert_same(repeated(3, start_step=7, workers=workers), repeated(10)[7:])


def test_evaluation_sees_every_image_once_and_fills_up():
    batches = list(eval_batches(Numbers(13), image_size=(32, 32), batch_size=4))
    indices = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(indices, [*range(13), -1, -1, -1])
    assert not batches[-1]["valid"][1:].any()
    np.testing.assert_allclose(batches[0]["scale"], 30 / 32)
    np.testing.assert_array_equal(batches[0]["size"][0], [20, 30])


def test_evaluation_has_other_sizes_of_the_same_images():
    (batch,) = eval_batches(
        Numbers(2), image_size=(32, 32), batch_size=3, other_sizes=((64, 64), (16, 32))
    )
    assert "scaled" not in next(eval_batches(Numbers(1), image_size=(32, 32), batch_size=1))
    for size, one in zip(((64, 64), (16, 32)), batch["scaled"], strict=True):
        assert one["image"].shape == (3, *size, 3) and (one["image"][1, :5, :5] == 1).all()
        np.testing.assert_array_equal(one["size"][:2], [[20, 30]] * 2)
    # 20×30 becomes 42×64, cut off, and 16×24.
    np.testing.assert_array_equal(batch["scaled"][0]["content"][1], [42, 64])
    np.testing.assert_allclose(batch["scaled"][1]["scale"][:2], 20 / 16)
    np.testing.assert_array_equal(batch["scaled"][1]["content"][0], [16, 24])


def test_evaluation_has_the_boxes_on_the_canvas():
    one, two = eval_batches(Numbers(3, boxes=3), image_size=(32, 32), batch_size=2, max_boxes=4)
    # 20×30 becomes 21×32 (cut off): 2 · 21 / 20, 3 · 32 / 30, …
    expected = [2.1, 3.2, 12.6, 13 * 32 / 30]
    np.testing.assert_allclose(one["boxes"][1], [expected] * 3 + [[0] * 4], rtol=1e-6)
    np.testing.assert_array_equal(one["labels"], [[0, 0, 0, -1], [1, 1, 1, -1]])
    assert (two["labels"][1] == -1).all() and not two["ignored"].any()
    (few,) = eval_batches(Numbers(2, boxes=3), image_size=(32, 32), batch_size=2, max_boxes=1)
    np.testing.assert_array_equal(few["labels"], [[0], [1]])
    assert few["ignored"].any(axis=(1, 2)).all()  # Where the other two are.


def test_evaluation_splits_over_hosts():
    parts = [
        list(
            eval_batches(
                Numbers(13), image_size=(32, 32), batch_size=4, process_index=h, process_count=2
            )
        )
        for h in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == 4
    seen = [rows["index"] for pair in zip(*parts, strict=True) for rows in pair]
    np.testing.assert_array_equal(np.concatenate(seen), [*range(13), -1, -1, -1])


class Asked(Numbers):
    """Remembers which examples it was asked for."""

    endless = True

    def __init__(self):
        super().__init__()
        self.asked = []

    def __getitem__(self, index):
        self.asked.append(index)
        return super().__getitem__(0)


def test_a_drawn_sample_is_any_of_the_source_and_not_augmented(rng):
    drawn = [draw_sample(Numbers(5), rng) for _ in range(60)]
    assert {sample.image[0, 0, 0] for sample in drawn} == set(range(5))
    for sample in drawn:
        assert sample.image.shape == (20, 30, 3) and (sample.image == sample.image[0, 0, 0]).all()
        np.testing.assert_array_equal(sample.boxes, [[2, 3, 12, 13]])


def test_of_an_endless_source_any_example_may_be_drawn(rng):
    source = Asked()
    for _ in range(20):
        draw_sample(source, rng)
    assert len(set(source.asked)) == 20 and max(source.asked) > len(source)


def test_a_drawn_image_that_cannot_be_read_is_black_and_has_no_boxes(rng):
    sample = draw_sample(Numbers(1, broken=[0]), rng)
    assert not sample.image.any() and len(sample.boxes) == 0


def test_evaluation_shows_the_middle_where_the_model_wants_it():
    (batch,) = eval_batches(Numbers(1), image_size=(32, 32), batch_size=1, crop=1.0, max_boxes=1)
    assert batch["content"].tolist() == [[32, 32]]
    # 20×30 is scaled by 1.6 and loses 8 columns at either side.
    np.testing.assert_allclose(batch["boxes"][0, 0], [3.2, 0.0, 19.2, 12.8], atol=1e-5)


def test_batches_have_masks_only_where_they_are_asked_for():
    settings, options = AugmentSettings((32, 32)), {"batch_size": 2, "max_boxes": 4}
    source = Shapes((48, 64), 4, masks=True)
    plain = next(train_batches(Shapes((48, 64), 4), settings, **options))
    masked = next(train_batches(source, settings, masks=True, **options))
    assert "masks" not in plain and masked["masks"].shape == (2, 32, 32)
    for name, array in plain.items():
        np.testing.assert_array_equal(array, masked[name])
    for mask, (height, width) in zip(masked["masks"], masked["content"]):
        assert (mask[height:] == 255).all() and (mask[:, width:] == 255).all()
    evaluated = list(eval_batches(source, image_size=(32, 32), batch_size=3, masks=True))
    assert (evaluated[1]["masks"][1:] == 255).all(), "rows that fill up"
    with pytest.raises(DataError, match="image 0 comes without a mask"):
        next(eval_batches(Shapes((48, 64), 4), image_size=(32, 32), batch_size=1, masks=True))
