"""Detection on images of any kind: read, resize, run, suppress, map back; compiled once."""

import dataclasses
import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError
from effdet_jax.data.images import convert_image, read_image
from effdet_jax.data.transforms import network_input
from effdet_jax.detection.objective import create_objective
from effdet_jax.detection.postprocess import NMS_METHODS, Detections, detect
from effdet_jax.inference.fold_batch_norm import fold_batch_norm
from effdet_jax.inference.result import Result
from effdet_jax.inference.tta import TTA, create_tta_detect
from effdet_jax.model.detector import Detector

# Where a model doesn't know a better one.
SCORE_THRESHOLD = 0.3


def create_detect(
    model: Detector, tta: TTA | None = None, **options: Any
) -> Callable[..., Detections]:
    """`(variables, batch) → Detections` in pixels of the original images: all of inference.

    See `create_inference` for the rest.
    """
    run = create_inference(model, tta, **options)
    return lambda variables, batch: run(variables, batch)[0]


def create_inference(
    model: Detector, tta: TTA | None = None, **options: Any
) -> Callable[..., tuple[Detections, Any]]:
    """`(variables, batch) → (Detections in pixels of the original images, the network's outputs)`.

    The batch holds image [B, H, W, 3] uint8, content [B, 2], scale [B] and size [B, 2], as
    `data.pipeline.eval_batches` makes it. Not jitted; pure.

    Args:
      model: the detector.
      tta: other views of the images that take part in the detections, see `create_tta_detect`.
      **options: keywords of `detect`.
    """
    if tta is not None:
        return create_tta_detect(model, tta, **options)
    objective = create_objective(model.spec)

    def run(variables, batch):
        outputs = model.apply(variables, model.preprocess(batch))
        found = objective.decode(outputs, **options)
        return found.to_image(batch["scale"], batch["size"]), outputs

    return run


class Predictor:
    """`predictor(images)` → `Result`s with boxes in pixels of the images given.

    A path, a Pillow image or an array gives one result; a list, or an array [B, H, W, 3], gives a
    list of them; any other iterable gives an iterator that reads on when it is asked and holds one
    batch at a time. Images in memory are converted by the rules of `data.images.convert_image`.

    Two shapes are compiled at most: an image given alone runs alone, all others in batches of
    `batch_size`, the last one filled up.

    Args:
      model: the detector.
      variables: its variables; a copy of them is folded, see `fold_batch_norm`.
      batch_size: images run together.
      score_threshold: less certain detections are left out; if not given, the model's own, at which
        its run measured the best F1, or 0.3 where there is none.
      tta: views of each image beside the plain one, such as 'flip,0.75,1.25': mirrored, and at
        other sizes. Their boxes' scores aren't those of the plain view; the model's own threshold
        isn't theirs.
      fusion: 'wbf' or 'nms', how the boxes of several views become one list; 'wbf' if not given.
      **options: other keywords of `postprocess.detect`, such as `iou_threshold=0.5`.

    Raises:
      TypeError: an unknown keyword; names the nearest known one.
      ValueError: the batch size, the score threshold or the NMS method is none.
      TTAError: there are no such views.
    """

    def __init__(
        self,
        model: Detector,
        variables: Mapping[str, Any],
        *,
        batch_size: int = 8,
        score_threshold: float | None = None,
        tta: str = "",
        fusion: str | None = None,
        **options: Any,
    ):
        if score_threshold is None:
            stored = model.score_threshold
            score_threshold = SCORE_THRESHOLD if stored is None else stored
        options["score_threshold"] = score_threshold
        _check_options(model, batch_size, options)
        self.tta = TTA.parse(tta, fusion)
        self._sizes = self.tta.sizes(model.spec) if self.tta else ()
        self.model = model
        self.class_names = model.class_names or ClassNames.numbered(model.spec.num_classes)
        self.score_threshold = score_threshold
        folded, self._variables = fold_batch_norm(model, variables)
        self._batch_size = batch_size
        self._compiled = jax.jit(create_detect(folded, self.tta, **options))

    def __call__(self, images: Any) -> Result | list[Result] | Iterator[Result]:
        """What is found on one image, on a list of images, or lazily on any iterable of them.

        Args:
          images: a path, a Pillow image or an array; or several of them, kinds may be mixed.

        Raises:
          DataError: one of them is no image, or can't be read; says which. An iterator gives the
            results of the images before it first.
        """
        if _is_one(images):
            (found,) = self._run([_read(images, "the image", self.model)], size=1)
            return found
        if isinstance(images, Sequence) or hasattr(images, "__array__"):
            return list(self._stream(images))
        if isinstance(images, Iterable) and not isinstance(images, bytes | Mapping):
            return self._stream(images)
        raise DataError(f"{type(images).__name__} is no image: give a path, a picture or an array")

    def detect(self, images: np.ndarray | Sequence[np.ndarray]) -> Detections:
        """Padded detections of uint8 RGB arrays [H, W, 3], at least one; `[i]` is that of image i.

        All numpy: boxes [n, M, 4], scores, labels and valid [n, M].
        """
        size = self._batch_size
        parts = [self._batch(images[at : at + size], size) for at in range(0, len(images), size)]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def _stream(self, images: Iterable[Any]) -> Iterator[Result]:
        waiting: list[_Input] = []
        for number, given in enumerate(images):
            try:
                waiting.append(_read(given, f"image {number}", self.model))
            except DataError:
                yield from self._run(waiting, self._batch_size)
                raise
            if len(waiting) == self._batch_size:
                yield from self._run(waiting, self._batch_size)
                waiting = []
        yield from self._run(waiting, self._batch_size)

    def _run(self, inputs: "Sequence[_Input]", size: int) -> Iterator[Result]:
        if not inputs:
            return
        found = self._batch([one.pixels for one in inputs], size)
        for number, one in enumerate(inputs):
            result = Result.of(found[number], self.class_names, one.pixels.shape[:2])
            origin = {"image": one.pixels} if one.path is None else {"path": one.path}
            yield dataclasses.replace(result, **origin, intensity=self.model.spec.intensity)

    def _batch(self, images: np.ndarray | Sequence[np.ndarray], size: int) -> Detections:
        """Detections of at most `size` images, run as `size`."""
        filled = [*images, *[images[-1]] * (size - len(images))]
        batch = _stacked(filled, self.model.spec.image_size, self.model.spec.crop)
        if self._sizes:
            batch["scaled"] = tuple(_stacked(filled, target) for target in self._sizes)
        return jax.device_get(self._compiled(self._variables, batch))[: len(images)]


def _stacked(
    images: Sequence[np.ndarray], target: tuple[int, int], crop: float = 0.0
) -> dict[str, Any]:
    """A batch of images at a size (height, width) of the network's input."""
    inputs = [network_input(image, target, crop) for image in images]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *inputs)


class _Input(NamedTuple):
    pixels: np.ndarray
    path: str | None


def _is_one(images: Any) -> bool:
    """Whether it is one image, of whatever kind, and not several."""
    if isinstance(images, str | os.PathLike | Image.Image):
        return True
    return hasattr(images, "__array__") and np.ndim(images) in (2, 3)


def _read(given: Any, name: str, model: Detector) -> _Input:
    """Raises `DataError` for what is no image, with its name or path."""
    intensity = model.spec.intensity
    if isinstance(given, str | os.PathLike):
        path = os.path.expanduser(os.fspath(given))
        if os.path.isdir(path):
            raise DataError(
                f"'{path}' is a folder: give its files, sorted(pathlib.Path({path!r}).glob('*.jpg'))"
            )
        return _Input(read_image(path, intensity), path)
    if not isinstance(given, Image.Image) and not hasattr(given, "__array__"):
        raise DataError(f"{name} is a {type(given).__name__}: give a path, a picture or an array")
    try:
        return _Input(convert_image(given, intensity), None)
    except DataError as error:
        raise DataError(f"{name} {error}") from error


def _check_options(model: Detector, batch_size: int, options: Mapping[str, Any]):
    """Refuses at once what would only be found while compiling, or not at all."""
    known = {
        "batch_size",
        "tta",
        "fusion",
        *_keywords(create_objective(model.spec).decode),
        *_keywords(detect),
    }
    for name in options:
        if name not in known:
            close = [other for other in known if other.startswith(name)]
            close = close or difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise TypeError(
                f"Predictor has no keyword '{name}'; {meant}there are {', '.join(sorted(known))}"
            )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    if not 0 <= options["score_threshold"] <= 1:
        raise ValueError(f"score_threshold is {options['score_threshold']}; it must be in 0 … 1")
    if (method := options.get("method", "hard")) not in NMS_METHODS:
        raise ValueError(f"NMS method '{method}' is unknown; there are {', '.join(NMS_METHODS)}")


def _keywords(function: Callable[..., Any]) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind == inspect.Parameter.KEYWORD_ONLY
    ]
