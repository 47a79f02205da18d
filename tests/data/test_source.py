import numpy as np
import pytest

from effdet_jax.config import get_config
from effdet_jax.data.example import DataError
from effdet_jax.data.source import SOURCES, open_source
from tests.doubles import Numbers, make_folder


def options(**changes):
    return get_config().data.to_dict() | changes


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError, match="data.source='vok' isn't one of 'auto', 'coco', 'voc'"):
        open_source("vok", "train", options())


def test_an_entry_is_called_with_the_split_and_the_options(monkeypatch):
    monkeypatch.setitem(
        SOURCES, "numbers", lambda split, options: Numbers(options[f"shapes_{split}"])
    )
    assert len(open_source("numbers", "val", options(shapes_val=5))) == 5


def test_shapes_of_training_and_validation_never_meet():
    train, val = (open_source("shapes", split, options(shapes_val=5)) for split in ("train", "val"))
    assert train.endless and not val.endless and len(val) == 5
    assert not np.array_equal(train[0].image, val[0].image)


def test_a_coco_folder_is_found_by_its_layout_or_by_name(tmp_path):
    make_folder(tmp_path)
    assert len(open_source("coco", "train", options(dir=str(tmp_path), val_fraction=0.0))) == 3
    named = {"val_json": str(tmp_path / "train.json"), "val_images": str(tmp_path / "other")}
    with pytest.raises(DataError, match="3 of 3 images can't be read"):
        open_source("coco", "val", options(**named))
    named["val_images"] = str(tmp_path / "images")
    assert len(open_source("coco", "val", options(**named))) == 3


def test_tfds_is_opened_by_folder_split_and_name(tmp_path):
    with pytest.raises(DataError, match=r"can't open TFDS data dots:1.0.0 \(validation\)"):
        open_source("tfds", "val", options(dir=str(tmp_path), tfds_name="dots:1.0.0"))
