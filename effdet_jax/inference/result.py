"""What a detector found on one image, as people use it: names, COCO, YOLO, rows, a picture."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError
from effdet_jax.data.images import Intensity, read_image
from effdet_jax.data.transforms import mask_from_canvas
from effdet_jax.errors import UserError
from effdet_jax.files import DestinationError
from effdet_jax.inference.render import draw_boxes, draw_mask

JPEG_QUALITY = 92


class MissingPackageError(UserError):
    """Another program's form was asked for, and its package isn't installed."""


class Detection(NamedTuple):
    """One of a `Result`.

    Attributes:
      box: [4] yxyx, pixels.
      score: in [0, 1].
      label: class index.
      name: of the class.
    """

    box: np.ndarray
    score: float
    label: int
    name: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What was found on one image, best first, without padding.

    `len(result)` is how many there are, `result[0]` and `for one in result` give a `Detection`.

    Attributes:
      boxes: [n, 4] float32 yxyx, pixels of the image as it was given.
      scores: [n] in [0, 1].
      labels: [n] class indices.
      class_names: names and ids of the classes.
      image_size: (height, width).
      path: of the image's file, None if it was given in memory.
      image: [H, W, 3] uint8 RGB, None if it was given as a path: the file is read again to draw.
      intensity: with which a file is read, see `data.images.decode_image`.
      mask: [H, W] uint8, what every pixel shows: 0 is background, 1 + class index; None of a model
        that finds boxes alone.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: ClassNames
    image_size: tuple[int, int]
    path: str | None = None
    image: np.ndarray | None = None
    intensity: Intensity = ()
    mask: np.ndarray | None = None

    @classmethod
    def of(cls, found: Any, class_names: ClassNames, size: tuple[int, int]) -> "Result":
        """What an objective decoded of one image of that (height, width).

        Args:
          found: `postprocess.Detections`, or another with its method `parts`.
        """
        parts = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32)}
        parts |= {"labels": np.zeros(0, np.int32), **found.parts()}
        if (pixels := parts.pop("pixels", None)) is not None:
            parts["mask"] = mask_from_canvas(pixels, size)
        return cls(**parts, class_names=class_names, image_size=size)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int) -> Detection:
        label = int(self.labels[index])
        return Detection(
            self.boxes[index], float(self.scores[index]), label, self.class_names.names[label]
        )

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.image_size
        shown = ", ".join(f"{one.name} {one.score:.2f}" for one in list(self)[:8])
        more = ", …" if len(self) > 8 else ""
        where = f"{self.path}, " if self.path else ""
        return f"<Result: {where}{width}×{height}, {len(self)} detections: {shown}{more}>"

    @property
    def names(self) -> list[str]:
        """Class names, one per detection."""
        return [self.class_names.names[label] for label in self.labels]

    @property
    def xyxy(self) -> np.ndarray:
        """[n, 4] boxes as (xmin, ymin, xmax, ymax), pixels: supervision's field of that name."""
        return self.boxes[:, [1, 0, 3, 2]]

    @property
    def confidence(self) -> np.ndarray:
        """[n], the scores: supervision's field of that name."""
        return self.scores

    @property
    def class_id(self) -> np.ndarray:
        """[n] class indices: supervision's field of that name."""
        return self.labels

    def above(self, score_threshold: float) -> "Result":
        """Those with at least that score."""
        some = self.scores >= score_threshold
        return dataclasses.replace(
            self, boxes=self.boxes[some], scores=self.scores[some], labels=self.labels[some]
        )

    def to_coco(self, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """COCO result rows, `bbox` as [x, y, width, height], with class names; ids are the data set's.

        Args:
          image_id: for all rows; the path if not given.

        Raises:
          DataError: there is neither.
        """
        image_id = self.path if image_id is None else image_id
        if image_id is None:
            raise DataError("the image was given without a path: result.to_coco(image_id=…)")
        rows = coco_results(image_id, self.boxes, self.scores, self.labels, self.class_names)
        file = {} if self.path is None else {"file_name": self.path}
        return [{**row, **file, "category_name": name} for row, name in zip(rows, self.names)]

    def to_yolo(self) -> list[str]:
        """Lines 'class cx cy w h score': the class index, and shares of the image's width and height."""
        height, width = self.image_size
        lines = []
        for (xmin, ymin, xmax, ymax), one in zip(self.xyxy.astype(np.float64), self):
            sides = ((xmin + xmax) / 2 / width, (ymin + ymax) / 2 / height)
            sides += ((xmax - xmin) / width, (ymax - ymin) / height)
            lines.append(
                " ".join([f"{one.label}", *(f"{side:.6f}" for side in (*sides, one.score))])
            )
        return lines

    def to_rows(self) -> list[dict[str, Any]]:
        """A row per detection for a CSV file or a data frame; corners in pixels."""
        height, width = self.image_size
        return [
            {
                "filename": self.path or "",
                "width": width,
                "height": height,
                "class": one.name,
                "score": round(one.score, 6),
                **dict(zip(("xmin", "ymin", "xmax", "ymax"), (round(float(x), 3) for x in box))),
            }
            for box, one in zip(self.xyxy, self)
        ]

    def to_supervision(self) -> Any:
        """`supervision.Detections` with xyxy, confidence, class_id and data['class_name'].

        Raises:
          MissingPackageError: supervision isn't installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingPackageError(
                "to_supervision needs supervision: pip install supervision. Its fields are here "
                "without it: result.xyxy, .confidence, .class_id"
            ) from error
        return supervision.Detections(
            xyxy=self.xyxy,
            confidence=self.confidence,
            class_id=self.class_id,
            data={"class_name": np.array(self.names, str)},
        )

    def summary(self) -> str:
        """'3 detections', or of a mask the share of pixels that each of its classes has."""
        if self.mask is None:
            return f"{len(self)} detections"
        names, counts = self.class_names.of_masks, np.bincount(self.mask.reshape(-1))
        shown = [
            f"{names[value]} {counts[value] / self.mask.size:.1%}"
            for value in np.argsort(-counts, kind="stable").tolist()
            if counts[value]
        ]
        return ", ".join([*([f"{len(self)} detections"] if len(self) else []), *shown])

    def draw(self, *, least_side: int = 0) -> np.ndarray:
        """[H, W, 3] uint8: a copy of the image with boxes, names and scores, or its mask, on it.

        Args:
          least_side: see `render.draw_boxes`.

        Raises:
          DataError: the image's file can't be read any more.
        """
        image = read_image(self.path, self.intensity) if self.image is None else self.image
        if self.mask is not None:
            image = draw_mask(image, self.mask, self.class_names)
        return draw_boxes(
            image, self.boxes, self.labels, self.class_names, self.scores, least_side=least_side
        )

    def save(self, path: str | os.PathLike):
        """Draws the picture and writes it; the folder is made if need be.

        Args:
          path: its ending says the format: .jpg, .png, .webp, …

        Raises:
          DestinationError: it is the image's own file, or can't be written.
          DataError: the image's file can't be read any more.
        """
        path = os.path.expanduser(os.fspath(path))
        if self.path and os.path.exists(path) and os.path.samefile(path, self.path):
            raise DestinationError(f"'{path}' is the image itself; save the picture elsewhere")
        save_picture(self.draw(), path)


def save_picture(picture: np.ndarray, path: str):
    """Writes [H, W, 3] uint8 RGB as the file's ending says.

    Raises:
      DestinationError: no picture can be written there, or none of that kind.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        Image.fromarray(picture).save(path, quality=JPEG_QUALITY)
    except (OSError, ValueError) as error:
        raise DestinationError(f"can't write the picture '{path}': {error}") from error


def coco_results(
    image_id: int | str,
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    class_names: ClassNames,
) -> list[dict[str, Any]]:
    """COCO result rows of one image: `bbox` is [x, y, width, height], ids are the data set's own.

    Args:
      boxes: [n, 4] yxyx, pixels of the original image.
    """
    return [
        {
            "image_id": image_id,
            "category_id": class_names.ids[int(label)],
            "bbox": [
                round(float(value), 3)
                for value in (box[1], box[0], box[3] - box[1], box[2] - box[0])
            ],
            "score": round(float(score), 6),
        }
        for box, score, label in zip(boxes, scores, classes)
    ]
