"""TensorFlow Datasets, read without TensorFlow: `image` with `objects{bbox, label}`, or a `label`."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError, DataReport, Example, GroundTruth, unreadable
from effdet_jax.data.folders import UNREAD, whole_image
from effdet_jax.data.images import Intensity, decode_image


class TfdsSource:
    """One split of a prepared TFDS data set in array_record format, a `data.example.Source`.

    Args:
      directory: the prepared version's folder ('…/coco/2017/1.1.0'), or with `name` the data_dir.
      split: 'train', 'validation', 'train[:10%]', ….
      name: 'coco/2017:1.1.0', with its version: without one TFDS would want TensorFlow.
      intensity: (low, high) of 16-bit images, see `decode_image`.

    Raises:
      DataError: nothing prepared is there, or its features aren't those of a detection set.
    """

    endless = False

    def __init__(self, directory: str, split: str, name: str = "", intensity: Intensity = ()):
        import tensorflow_datasets as tfds  # Slow to import; only this source needs it.

        self.where, self.intensity = f"{name or directory} ({split})", intensity
        try:
            if name:
                builder = tfds.builder(name, data_dir=directory)
            else:
                builder = tfds.builder_from_directory(directory)
            decoders = {"image": tfds.decode.SkipDecoding()}
            self._records = builder.as_data_source(split, decoders=decoders)
        except Exception as error:  # TFDS raises many kinds, TensorFlow's absence among them.
            raise DataError(
                f"can't open TFDS data {self.where}: {error}. It must have been prepared with "
                "file_format='array_record'; give its folder (…/name/config/version) as "
                "--config.data.dir"
            ) from error
        label = self._label(builder.info.features)
        names = list(label.names or [f"class {index}" for index in range(label.num_classes)])
        self.class_names = ClassNames.from_names(names)
        # TFDS numbers COCO's 80 classes without gaps; `ClassNames` may have 90.
        index_of_name = self.class_names.index_of_name()
        self._index_of_label = np.array([index_of_name[name] for name in names], np.int32)
        self.report = DataReport()
        self.report.images = len(self._records)
        if self._has_boxes:
            self.report.notes.append("boxes of TFDS records are checked as they are read")
        if not len(self._records):
            raise DataError(f"TFDS data {self.where} has no images")

    def _label(self, features: Any) -> Any:
        """The feature of the class: each object's, or, for sets to classify, the image's."""
        self._has_boxes = "objects" in features
        try:
            features["image"]
            if not self._has_boxes:
                return features["label"]
            features["objects"]["bbox"]
            return features["objects"]["label"]
        except KeyError as error:
            raise DataError(
                f"TFDS data {self.where} is no detection set: it needs 'image' and 'objects' with "
                "'bbox' and 'label', or 'image' and 'label' to classify; it has "
                f"{', '.join(features)}"
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self._records[index]
        identity = _identity(record, index)
        try:
            image = decode_image(record["image"], intensity=self.intensity)
        except DataError as error:
            return unreadable(identity, (1, 1), str(error))
        if not self._has_boxes:
            return Example(image, self._whole(record, index, image.shape[:2]))
        truth = self._truth(record, identity, image.shape[:2])
        return Example(image, truth, dropped=len(record["objects"]["bbox"]) - len(truth.boxes))

    def describe(self, index: int) -> str:
        return f"image {_identity(self._records[index], index)} of TFDS {self.where}"

    def ground_truth(self) -> Iterator[GroundTruth]:
        if self._has_boxes:
            return (self[index].truth for index in range(len(self)))
        return (self._whole(self._records[index], index, UNREAD) for index in range(len(self)))

    def _whole(self, record: dict[str, Any], index: int, size: tuple[int, int]) -> GroundTruth:
        label = int(self._index_of_label[int(record["label"])])
        return whole_image(_identity(record, index), size, label)

    def _truth(self, record: dict[str, Any], identity, size: tuple[int, int]) -> GroundTruth:
        objects = record["objects"]
        boxes = np.array(objects["bbox"], np.float32).reshape(-1, 4)
        boxes = boxes * np.array([*size, *size], np.float32)
        real = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        crowd = np.array(objects.get("is_crowd", np.zeros(len(boxes))), bool).reshape(-1)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        area = np.array(objects.get("area", area), np.float64).reshape(-1)
        labels = self._index_of_label[np.array(objects["label"], np.int64).reshape(-1)]
        return GroundTruth(identity, size, boxes[real], labels[real], crowd[real], area[real])


def open_tfds(split: str, options: Mapping[str, Any]) -> TfdsSource:
    """A TFDS split, an entry of `data.source.SOURCES`.

    Args:
      options: `dir`, `train_split` and `val_split` in TFDS's notation, `tfds_name`, `intensity`.

    Raises:
      DataError: nothing prepared is there, or it is no detection set.
    """
    split = options[f"{split}_split"]
    return TfdsSource(options["dir"], split, options["tfds_name"], options["intensity"])


def _identity(record: dict[str, Any], index: int) -> int | str:
    """The record's own id, however TFDS sets name it, else its position."""
    for key in ("image/id", "id", "image_id", "image/filename"):
        if key in record:
            value = record[key]
            return value.decode() if isinstance(value, bytes) else int(value)
    return index
