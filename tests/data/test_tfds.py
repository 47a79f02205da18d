"""Detection sets of TFDS, written and read without TensorFlow."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from effdet_jax.data.example import DataError
from effdet_jax.data.tfds import TfdsSource


class Dots(tfds.core.GeneratorBasedBuilder):
    """Four 32×48 images; image i has i boxes, and image 3 a degenerate one besides."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features
        objects = {
            "bbox": features.BBoxFeature(),
            "label": features.ClassLabel(names=["red", "blue"]),
            "is_crowd": np.bool_,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=features.FeaturesDict(
                {
                    "image": features.Image(encoding_format="png"),
                    "image/id": np.int64,
                    "objects": features.Sequence(objects),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for number in range(count):
            buffer = io.BytesIO()
            Image.new("RGB", (48, 32), (number, 0, 0)).save(buffer, "PNG")
            buffer.seek(0)
            boxes = [tfds.features.BBox(0.25, 0.5, 0.75, 1.0)] * number
            if number == 3:
                boxes.append(tfds.features.BBox(0.5, 0.5, 0.5, 0.5))
            objects = [
                {"bbox": box, "label": place % 2, "is_crowd": place == 2}
                for place, box in enumerate(boxes)
            ]
            yield number, {"image": buffer, "image/id": 100 + number, "objects": objects}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Dots(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


def test_records_become_examples(prepared):
    source = TfdsSource(str(prepared / "dots" / "1.0.0"), "train")
    assert "tensorflow" not in sys.modules
    assert len(source) == 4 and source.class_names.names == ("red", "blue")
    by_id = {source[i].truth.image_id: source[i] for i in range(4)}
    example = by_id[103]
    assert example.image.shape == (32, 48, 3) and example.image[0, 0, 0] == 3
    np.testing.assert_allclose(example.truth.boxes, [[8, 24, 24, 48]] * 3)
    assert example.truth.labels.tolist() == [0, 1, 0]
    assert example.truth.crowd.tolist() == [False, False, True]
    assert example.dropped == 1  # the one without area
    assert len(by_id[100].truth.boxes) == 0
    assert "image 10" in source.describe(0)


def test_by_name_and_version_and_split(prepared):
    source = TfdsSource(str(prepared), "train[:50%]", "dots:1.0.0")
    assert len(source) == 2
    assert len(list(TfdsSource(str(prepared), "validation", "dots:1.0.0").ground_truth())) == 2


def test_a_folder_without_data_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"can't open TFDS data .*array_record"):
        TfdsSource(str(tmp_path), "train")


def test_a_set_without_boxes_is_named(tmp_path):
    class Pictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": [(0, {"text": "a"})]}

        def _generate_examples(self):
            raise AssertionError("unused")

    Pictures(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    with pytest.raises(DataError, match="is no detection set"):
        TfdsSource(str(tmp_path / "pictures" / "1.0.0"), "train")


def test_sets_to_classify_have_a_box_around_each_image(tmp_path):
    class Colours(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=["red", "blue"])
            image = tfds.features.Image(encoding_format="png")
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            buffer = io.BytesIO()
            Image.new("RGB", (48, 32)).save(buffer, "PNG")
            buffer.seek(0)
            yield 0, {"image": buffer, "label": "blue"}

    Colours(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    source = TfdsSource(str(tmp_path / "colours" / "1.0.0"), "train")
    assert source.class_names.names == ("red", "blue") and source[0].dropped == 0
    np.testing.assert_array_equal(source[0].truth.boxes, [[0, 0, 32, 48]])
    (truth,) = source.ground_truth()
    assert truth.labels.tolist() == source[0].truth.labels.tolist() == [1]
