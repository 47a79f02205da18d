"""EfficientNet as a classifier: `ModelSpec` fields by name (arXiv:1905.11946; google/automl)."""

from typing import Any

# What every classifier has: no pyramid and no anchors; heads on the backbone's last features.
_SHARED = {
    "objective": "classification",
    "pyramid_cells": 0,
    "octaves": 0,
    "max_level": 5,
    "num_classes": 1000,
    "crop": 0.875,
}
_LITE = {"activation": "relu6", "mean": (127.0, 127.0, 127.0), "std": (128.0, 128.0, 128.0)}
# Name → (side of the input, channels before pooling, dropout): 1280 channels as the width scales
# them, to multiples of 8; Lite doesn't scale them.
_PUBLISHED = {
    "efficientnet-b0": (224, 1280, 0.2),
    "efficientnet-b1": (240, 1280, 0.2),
    "efficientnet-b2": (260, 1408, 0.3),
    "efficientnet-b3": (300, 1536, 0.3),
    "efficientnet-b4": (380, 1792, 0.4),
    "efficientnet-b5": (456, 2048, 0.4),
    "efficientnet-b6": (528, 2304, 0.5),
    "efficientnet-b7": (600, 2560, 0.5),
    "efficientnet-lite0": (224, 1280, 0.2),
    "efficientnet-lite1": (240, 1280, 0.2),
    "efficientnet-lite2": (260, 1280, 0.3),
    "efficientnet-lite3": (280, 1280, 0.3),
    "efficientnet-lite4": (300, 1280, 0.3),
}


def _fields(name: str) -> dict[str, Any]:
    side, width, dropout = _PUBLISHED[name]
    return {
        **_SHARED,
        **(_LITE if "lite" in name else {}),
        "backbone": name,
        "image_size": (side, side),
        "pyramid_width": width,
        "head_depth": 1,
        "dropout": dropout,
    }


CLASSIFIERS: dict[str, dict[str, Any]] = {name: _fields(name) for name in _PUBLISHED}
