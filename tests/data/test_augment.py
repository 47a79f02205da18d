import cv2
import numpy as np
import pytest

from effdet_jax.data import augment
from effdet_jax.data.augment import AUGMENTATIONS, Augment, AugmentError, check_ops
from effdet_jax.data.pipeline import train_batches
from effdet_jax.data.sample import AugmentSettings, Sample, create_sample
from effdet_jax.data.synthetic import Shapes
from tests.doubles import Numbers


def no_draw():
    raise AssertionError("this augmentation needs no other image")


def apply(sample, rng, image_size=(40, 40), **settings):
    return Augment(AugmentSettings(image_size, **settings))(sample, rng, no_draw)


@pytest.fixture
def sample():
    """A box of white pixels in a grey image of 20×30."""
    image = np.full((20, 30, 3), 100, np.uint8)
    image[2:8, 3:12] = 255
    return Sample(image, np.array([[2, 3, 8, 12]], np.float32), np.array([1], np.int32), (20, 30))


def restated(image, boxes, labels, size, s, rng):
    """The default augmentations of a training example, in one piece and in plain numpy."""
    height, width = image.shape[:2]
    if rng.random() < s.horizontal_flip:
        image = image[:, ::-1]
        boxes = np.stack([boxes[:, 0], width - boxes[:, 3], boxes[:, 2], width - boxes[:, 1]], 1)
    if rng.random() < s.vertical_flip:
        image = image[::-1]
        boxes = np.stack([height - boxes[:, 2], boxes[:, 1], height - boxes[:, 0], boxes[:, 3]], 1)
    f32 = np.float32
    scale = f32(rng.uniform(s.scale_min, s.scale_max))
    y, x = rng.random(), rng.random()
    targets = [int(scale * f32(side)) for side in size]
    ratio = min(f32(targets[0]) / f32(height), f32(targets[1]) / f32(width))
    full = max(1, int(f32(height) * ratio)), max(1, int(f32(width) * ratio))
    top = int(f32(max(0, full[0] - size[0])) * f32(y))
    left = int(f32(max(0, full[1] - size[1])) * f32(x))
    if full != (height, width):
        image = cv2.resize(np.ascontiguousarray(image), full[::-1], interpolation=cv2.INTER_LINEAR)
    image = image[top : top + size[0], left : left + size[1]]
    if s.colour:
        brightness, contrast, saturation = 1 + s.colour * rng.uniform(-1, 1, 3)
        values = image.astype(f32) * brightness
        values = (values - values.mean()) * contrast + values.mean()
        gray = values.mean(axis=2, keepdims=True)
        image = np.clip(np.round((values - gray) * saturation + gray), 0, 255).astype(np.uint8)
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    boxes = boxes / np.array([height, width] * 2, f32) * np.array([*full, *full], f32)
    boxes = np.clip(boxes - np.array([top, left] * 2, f32), 0, np.array([*size, *size], f32) - 1)
    kept = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 0
    return canvas, boxes[kept], labels[kept], image.shape[:2]


@pytest.mark.parametrize("colour", [0.0, 0.4])
@pytest.mark.parametrize("vertical_flip", [0.0, 0.5])
def test_the_default_ops_are_flip_jitter_colour_number_for_number(colour, vertical_flip):
    source = Shapes((90, 120), 25, seed=1)
    settings = AugmentSettings((64, 96), colour=colour, vertical_flip=vertical_flip)
    run = Augment(settings)
    lost = 0
    for index in range(25):
        start = create_sample(source[index])
        found = run(start, np.random.default_rng(index), no_draw)
        canvas, boxes, labels, content = restated(
            start.image,
            start.boxes,
            start.labels,
            (64, 96),
            settings,
            np.random.default_rng(index),
        )
        np.testing.assert_array_equal(found.image, canvas)
        np.testing.assert_array_equal(found.boxes, boxes)
        np.testing.assert_array_equal(found.labels, labels)
        assert found.content == content and found.boxes.dtype == np.float32
        lost += len(start.boxes) - len(boxes)
    assert lost, "no case in which a box was cropped away"


def test_without_ops_the_image_is_fitted_as_in_evaluation(sample, rng):
    found = apply(sample, rng, (40, 40), ops=())
    assert found.image.shape == (40, 40, 3) and found.content == (26, 40)
    np.testing.assert_allclose(found.boxes, [[2.6, 4, 10.4, 16]], atol=1e-5)
    assert not found.image[26:].any() and found.pixels.min() >= 99


def test_boxes_without_area_on_the_canvas_never_reach_the_network(sample, rng, monkeypatch):
    def spread(settings):
        boxes = np.array([[-9, -9, 50, 50], [40, 2, 50, 9], [3, 3, 3, 9]], np.float32)
        return lambda sample, rng, draw: Sample(
            np.zeros((40, 40, 3), np.uint8), boxes, np.arange(3, dtype=np.int32), (40, 40)
        )

    monkeypatch.setitem(AUGMENTATIONS, "spread", spread)
    found = apply(sample, rng, (40, 40), ops=("spread",))
    np.testing.assert_array_equal(found.boxes, [[0, 0, 39, 39]])
    assert found.labels.tolist() == [0]


@pytest.mark.parametrize("flips", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_flips_after_the_jitter_leave_the_padding_at_the_bottom_and_right(sample, rng, flips):
    horizontal, vertical = flips
    found = apply(
        sample,
        rng,
        (40, 40),
        ops=("scale_jitter", "flip"),
        scale_min=0.75,
        scale_max=0.75,
        horizontal_flip=horizontal,
        vertical_flip=vertical,
    )
    assert found.content == (20, 30)  # As large as it was.
    top, left = (12 if vertical else 2), (18 if horizontal else 3)
    np.testing.assert_array_equal(found.boxes, [[top, left, top + 6, left + 9]])
    assert (found.image[top : top + 6, left : left + 9] == 255).all()
    assert (found.image == 255).sum() == 6 * 9 * 3 and found.pixels.min() == 100
    assert not found.image[20:].any() and not found.image[:, 30:].any()


def test_colour_leaves_the_padding_black_and_the_source_as_it_was(sample, rng):
    found = apply(sample, rng, (40, 40), colour=0.5, scale_min=1.0, scale_max=1.0)
    assert found.content == (26, 40)
    assert found.image[:26].all() and not found.image[26:].any()
    before = sample.image.copy()
    assert (apply(sample, rng, (20, 30), ops=("colour",), colour=0.5).image != before).any()
    np.testing.assert_array_equal(sample.image, before)


def test_an_unknown_op_lists_the_known_ones():
    with pytest.raises(
        AugmentError, match="'mosaik' isn't one of 'flip', 'scale_jitter', 'random_crop', 'colour'"
    ):
        check_ops(("flip", "mosaik"))
    with pytest.raises(AugmentError, match="'mosaik'"):
        Augment(AugmentSettings((40, 40), ops=("mosaik",)))


def paste(settings):
    """A toy augmentation: the upper left quarter shows another image of the source."""

    def op(sample, rng, draw):
        image, other = sample.image.copy(), draw()
        half = image.shape[0] // 2, image.shape[1] // 2
        image[: half[0], : half[1]] = other.image[: half[0], : half[1]]
        boxes = np.clip(other.boxes, 0, np.array([*half, *half], np.float32))
        return Sample(image, boxes, other.labels, sample.content)

    return op


@pytest.mark.parametrize("workers", [0, 1])
def test_a_new_augmentation_is_a_function_and_an_entry(monkeypatch, workers):
    """The images of `Numbers` are 20×30 and their grey level is their index."""
    monkeypatch.setitem(augment.AUGMENTATIONS, "paste", paste)
    settings = AugmentSettings((20, 30), ops=("paste",))

    def take(count, **options):
        batches = train_batches(Numbers(13), settings, batch_size=4, max_boxes=3, seed=5, **options)
        return [next(batches) for _ in range(count)]

    batches = take(6)
    for batch in batches:
        own, pasted = batch["image"][:, 15, 20, 0], batch["image"][:, 5, 5, 0]
        np.testing.assert_array_equal(own, batch["index"])
        np.testing.assert_array_equal(batch["labels"][:, 0], pasted % 2)
        np.testing.assert_array_equal(batch["boxes"][:, 0], [[2, 3, 10, 13]] * 4)
    pasted = np.concatenate([batch["image"][:, 5, 5, 0] for batch in batches])
    own = np.concatenate([batch["index"] for batch in batches])
    assert len(set(pasted)) > 6 and (pasted != own).any()
    for found, expected in zip(take(3, start_step=3, workers=workers), batches[3:], strict=True):
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_random_crop_has_no_padding_and_takes_the_boxes_along(sample, rng):
    seen = 0
    for _ in range(20):
        cropped = apply(sample, rng, ops=("random_crop",), crop_area=0.5)
        assert cropped.image.shape == (40, 40, 3) and cropped.content == (40, 40)
        for top, left, bottom, right in cropped.boxes.round().astype(int):
            if min(bottom - top, right - left) > 8:
                seen += 1
                assert (cropped.image[top + 3 : bottom - 3, left + 3 : right - 3] > 240).all()
    assert seen > 5


def test_without_an_op_for_it_an_image_is_cut_as_evaluation_cuts_it(sample, rng):
    cut = apply(sample, rng, ops=(), crop=1.0)
    assert cut.content == (40, 40) and not (cut.image == 0).any()
