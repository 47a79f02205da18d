import numpy as np
import pytest

from effdet_jax.data.example import Example, make_truth
from effdet_jax.data.pipeline import Augmentation, augment, eval_batches, train_batches
from tests.doubles import Numbers


def take(count, source=None, **options):
    defaults = {"image_size": (32, 32), "batch_size": 4, "max_boxes": 3, "seed": 5}
    batches = train_batches(source or Numbers(), **(defaults | options))
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
    (batch,) = take(1, Numbers(boxes=8), augmentation=Augmentation(1.0, 1.0, 0.0))
    assert (batch["dropped"] == 5).all() and (batch["labels"] >= 0).all()


def test_evaluation_sees_every_image_once_and_fills_up():
    batches = list(eval_batches(Numbers(13), image_size=(32, 32), batch_size=4))
    indices = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(indices, [*range(13), -1, -1, -1])
    assert not batches[-1]["valid"][1:].any()
    np.testing.assert_allclose(batches[0]["scale"], 30 / 32)
    np.testing.assert_array_equal(batches[0]["size"][0], [20, 30])


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


def test_crowds_are_not_trained_on_and_boxes_are_cut_to_the_image(rng):
    rows = [((-5, -5, 10, 10), 0, False, 1.0), ((0, 0, 9, 9), 1, True, 1.0)]
    example = Example(np.zeros((20, 20, 3), np.uint8), make_truth(0, (20, 20), rows))
    _, boxes, labels = augment(example, (40, 40), Augmentation(1.0, 1.0, 0.0), rng)
    np.testing.assert_allclose(boxes, [[0, 0, 20, 20]], atol=1e-4)
    assert labels.tolist() == [0]


def test_colour_jitter_leaves_the_padding_black(rng):
    example = Example(np.full((10, 20, 3), 128, np.uint8), make_truth(0, (10, 20)))
    (canvas, content), _, _ = augment(example, (40, 40), Augmentation(1.0, 1.0, 0.0, 0.0, 0.5), rng)
    assert content == (20, 40)
    assert canvas[:20].all() and not canvas[20:].any()
