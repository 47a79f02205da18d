"""Batches from a source, addressed by step: nothing to save, the same for any number of workers.

Training order: every epoch is one permutation of all examples, epochs follow without a gap, and
batch `step` is elements `step · batch_size …` of that sequence, augmented by random numbers that
belong to the element's position. So step and seed are all the state there is. A process's share of a
batch is consecutive, in the order of the processes: together they have the batch that one would have.
Where images are repeated, an epoch is a permutation of as many elements as the repeats come to.
"""

import functools
import math
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from effdet_jax.classes import IGNORED_PIXEL
from effdet_jax.data import transforms
from effdet_jax.data.augment import Augment
from effdet_jax.data.example import DataError, Example, Source, unreadable
from effdet_jax.data.sample import AugmentSettings, Sample, create_sample
from effdet_jax.ops.anchors import IGNORED_LEVEL, feature_size

Batch = dict[str, np.ndarray]

# Positions in the order of training: more than any run comes to.
ENDLESS_LENGTH = 2**40


def train_batches(
    source: Source,
    augment: AugmentSettings,
    *,
    batch_size: int,
    max_boxes: int,
    repeats: np.ndarray | None = None,
    masks: bool = False,
    seed: int = 0,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 2,
) -> Iterator[Batch]:
    """Endless batches of this process's share, from `start_step` on.

    Each batch holds, with b = batch_size / process_count rows:
      image: [b, H, W, 3] uint8, zero padding at the bottom and right.
      content: [b, 2] int32 (height, width) of the part that isn't padding.
      boxes: [b, max_boxes, 4] float32 yxyx, input pixels.
      labels: [b, max_boxes] int32, -1 for padding rows.
      ignored: [b, h, w] bool, cells of `IGNORED_LEVEL` with boxes beyond `max_boxes`.
      valid: [b] bool, False for an image that couldn't be read.
      index: [b] int64 index into the source, for messages.
      dropped: [b] int32 boxes that were bad or beyond `max_boxes`.
      masks: [b, H, W] uint8, see `example.Example`, if asked for.

    Args:
      augment: the network's image size, and how images are augmented.
      batch_size: of all processes together.
      max_boxes: slots; of an image with more boxes each epoch trains others, chosen at random.
      repeats: [len(source)] how often an epoch has each image on average; once each, if not given.
      masks: whether rows have masks; the source is one that was opened with them.
      workers: processes that decode and augment; 0 does it in `threads` threads.
    """
    rows = batch_size // process_count
    dataset = (
        _order(source, seed, repeats)
        .random_map(_Prepare(source, augment, max_boxes, masks))
        .batch(rows)  # Of this process's rows: it has every `process_count`-th of these.
        .slice(slice(process_index, None, process_count))
        .slice(slice(start_step, None))
    )
    return _iterate(dataset, workers, threads)


def eval_batches(
    source: Source,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    crop: float = 0.0,
    max_boxes: int = 0,
    masks: bool = False,
    other_sizes: tuple[tuple[int, int], ...] = (),
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled up with rows whose index is -1.

    Rows hold image, content, boxes, labels, ignored, valid, index and masks as in training, and
      scale: [b] float32 original pixels per input pixel.
      size: [b, 2] float32 (height, width) of the original image.
      scaled: for each of `other_sizes` the image, content, scale and size at that size; without
        any, this isn't there.
    All processes get the same number of batches.

    Args:
      crop: see `transforms.place`.
      max_boxes: slots for ground truth; of an image with more boxes the first ones are taken.
      other_sizes: of the network input, at which the images are wanted, too.
    """
    rows = batch_size // process_count
    batches = -(-len(source) // batch_size)
    dataset = (
        grain.MapDataset.range(batches * batch_size)
        .map(_PrepareForEvaluation(source, image_size, crop, max_boxes, masks, other_sizes))
        .batch(rows)
        .slice(slice(process_index, None, process_count))
    )
    return _iterate(dataset, 0, threads)


def _order(source: Source, seed: int, repeats: np.ndarray | None) -> grain.MapDataset:
    """Indices in the order of training: a permutation per epoch, or ever new ones."""
    if source.endless:
        return grain.MapDataset.range(ENDLESS_LENGTH).seed(seed)
    length = len(source) if repeats is None else round(repeats.sum())
    epochs = -(-ENDLESS_LENGTH // length)
    order = grain.MapDataset.range(length).seed(seed).shuffle().repeat(epochs)
    return order if repeats is None else order.map_with_index(_Repeat(repeats, length, seed))


class _Repeat(grain.transforms.MapWithIndex):
    """Position within an epoch → index of an image that has so many positions as it is repeated.

    Images lie one after the other, each as long as its repeats; positions are evenly spaced points,
    from an offset drawn per epoch. So 1.3 repeats are one or two, and 1.3 on average over epochs.
    """

    def __init__(self, repeats: np.ndarray, length: int, seed: int):
        self._ends, self._length, self._seed = np.cumsum(repeats), length, seed

    def map_with_index(self, index: int, position: int) -> int:
        offset = np.random.default_rng((self._seed, index // self._length)).random()
        point = (position + offset) / self._length * self._ends[-1]
        return min(int(np.searchsorted(self._ends, point, side="right")), len(self._ends) - 1)


class _Prepare(grain.transforms.RandomMap):
    """Index → augmented training element."""

    def __init__(self, source: Source, augment: AugmentSettings, max_boxes: int, masks: bool):
        self._source, self._max_boxes, self._masks = source, max_boxes, masks
        self._augment = Augment(augment)

    def random_map(self, index: int, rng: np.random.Generator) -> Batch:
        example = self._source[int(index)]
        draw = functools.partial(draw_sample, self._source, rng)
        sample = self._augment(create_sample(example), rng, draw)
        chosen = np.arange(len(sample.boxes))
        if len(chosen) > self._max_boxes:
            chosen = np.sort(rng.permutation(chosen)[: self._max_boxes])
        return {
            **_as_arrays(sample, chosen, self._max_boxes),
            **_mask_array(sample, example, self._masks),
            "valid": np.bool_(not example.error),
            "index": np.int64(index),
            "dropped": np.int32(example.dropped + len(sample.boxes) - len(chosen)),
        }


class _PrepareForEvaluation(grain.transforms.Map):
    """Index → evaluation element; indices beyond the source give padding rows."""

    def __init__(
        self,
        source: Source,
        image_size: tuple[int, int],
        crop: float,
        max_boxes: int,
        masks: bool,
        other_sizes: tuple[tuple[int, int], ...],
    ):
        self._source, self._size, self._crop = source, tuple(image_size), crop
        self._max_boxes, self._masks, self._other_sizes = max_boxes, masks, other_sizes

    def map(self, index: int) -> Batch:
        if index < len(self._source):
            example = self._source[int(index)]
        else:
            example, index = unreadable("", (1, 1), "padding"), -1
        size = example.image.shape[:2]
        sample = create_sample(example).letterbox(transforms.place(size, self._size, self._crop))
        chosen = np.arange(min(len(sample.boxes), self._max_boxes))
        others = [transforms.network_input(example.image, size) for size in self._other_sizes]
        return {
            **_as_arrays(sample, chosen, self._max_boxes),
            **_mask_array(sample, example, self._masks),
            "scale": np.float32(transforms.image_scale(size, self._size)),
            "size": np.array(size, np.float32),
            "valid": np.bool_(not example.error),
            "index": np.int64(index),
            **({"scaled": tuple(others)} if others else {}),
        }


def _as_arrays(sample: Sample, chosen: np.ndarray, max_boxes: int) -> Batch:
    """A sample on the network's canvas with the `chosen` of its boxes in `max_boxes` slots."""
    boxes = np.zeros((max_boxes, 4), np.float32)
    boxes[: len(chosen)] = sample.boxes[chosen]
    labels = np.full(max_boxes, -1, np.int32)
    labels[: len(chosen)] = sample.labels[chosen]
    left_out = np.delete(sample.boxes, chosen, axis=0)
    return {
        "image": sample.image,
        "content": np.array(sample.content, np.int32),
        "boxes": boxes,
        "labels": labels,
        "ignored": touched_cells(left_out, sample.image.shape[:2]),
    }


def _mask_array(sample: Sample, example: Example, masks: bool) -> Batch:
    """The mask of a sample on the network's canvas, if masks are asked for.

    Raises:
      DataError: there is none, though the image can be read.
    """
    if not masks:
        return {}
    if sample.mask is not None:
        return {"masks": sample.mask}
    if not example.error:
        raise DataError(
            f"image {example.truth.image_id} comes without a mask: an augmentation has left it out, "
            "or the data has none"
        )
    return {"masks": np.full(sample.image.shape[:2], IGNORED_PIXEL, np.uint8)}


def touched_cells(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Cells of `IGNORED_LEVEL` that boxes [n, 4] yxyx, pixels, reach into: [h, w] bool."""
    rows, columns = feature_size(image_size, IGNORED_LEVEL)
    touched = np.zeros((rows, columns), bool)
    cells = boxes / np.tile((image_size[0] / rows, image_size[1] / columns), 2)
    for top, left, bottom, right in cells:
        touched[int(top) : math.ceil(bottom), int(left) : math.ceil(right)] = True
    return touched


def draw_sample(source: Source, rng: np.random.Generator) -> Sample:
    """A sample of the source chosen by `rng`, not augmented: for ops that need another image."""
    index = rng.integers(ENDLESS_LENGTH if source.endless else len(source))
    return create_sample(source[int(index)])


def _iterate(dataset: grain.MapDataset, workers: int, threads: int) -> Iterator[Batch]:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * max(threads, 1))
    iterable = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's worker processes read absl's flags.
            flags.FLAGS.mark_as_parsed()
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterable)
