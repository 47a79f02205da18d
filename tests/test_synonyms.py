import re

from effdet_jax.config import flatten, get_config
from effdet_jax.synonyms import ADVICE, KEYS


def test_what_is_suggested_exists_and_no_word_is_a_key_itself():
    keys = set(flatten(get_config()))
    assert set(KEYS.values()) <= keys
    for advice in ADVICE.values():
        assert set(re.findall(r"--config\.([\w.]*\w)", advice)) <= keys
    assert not (KEYS.keys() | ADVICE.keys()) & keys
    assert not KEYS.keys() & ADVICE.keys()


def test_the_words_of_other_tools_are_known():
    """Of ultralytics, effdet, mmdetection, rf-detr and google/automl."""
    words = "num_classes lr epochs resume pretrained weights imgsz img_size image_size batch device"
    words += " workers conf name project amp fp16 iou optimizer wd mosaic steps val save_period"
    words += " data_dir freeze_backbone early_stopping num_examples_per_epoch hparams"
    assert set(words.split()) - KEYS.keys() - ADVICE.keys() == {"workers"}  # It is `data.workers`.
