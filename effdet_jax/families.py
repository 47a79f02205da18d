"""Models beside the compound family: the detectors that EfficientDet's paper compares with.

Name → fields of a `ModelSpec`. They are data only: every part is an entry of a table, see
docs/extending.md.
"""

from typing import Any

# What every ResNet's published weights expect: PyTorch's padding and epsilon. (Its mean and std are
# the defaults.) Residual branches are never dropped.
_RESNET = {"padding": "symmetric", "backbone_epsilon": 1e-5, "survival_probability": 1.0}

# RetinaNet (arXiv:1708.02002) as EfficientDet's paper counts it, 34M and 97B at 640 pixels: that of
# google/automl's first release, with batch normalisation per level and P6 from P5.
_RETINANET = {
    **_RESNET,
    "image_size": (640, 640),
    "pyramid": "retinanet",
    "pyramid_width": 256,
    "pyramid_cells": 1,
    "head_depth": 4,
    "conv": "dense",
    "fusion": "sum",
    "activation": "relu",
    "objective": "retinanet",
}

# torchvision's `retinanet_resnet50_fpn`: nothing is normalised but the backbone, anchors stand at
# the cells' corners in whole pixels, and ratios (height / width of ½, 1, 2) come before sizes.
_TORCHVISION = {
    **_RETINANET,
    "pyramid": "retinanet_plain",
    "objective": "torchvision",
    "anchor_layout": "corner",
    "num_classes": 91,  # COCO's ids as they are: 0 is the background, and never found.
    "aspects": ((2**0.5, 0.5**0.5), (1.0, 1.0), (0.5**0.5, 2**0.5)),
}

# NAS-FPN (arXiv:1904.07392): seven repeats of the searched cell. A lateral per level, P6 and P7
# pooled from P5's, windows as wide as their stride, as in TensorFlow's own.
_NASFPN = {
    **_RETINANET,
    "pyramid": "nasfpn",
    "pyramid_cells": 7,
    "laterals": "level",
    "pooling": "disjoint",
}

# Family → name → fields.
FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "retinanet": {
        "retinanet-r50": {**_RETINANET, "backbone": "resnet50"},
        "retinanet-r101": {**_RETINANET, "backbone": "resnet101"},
        "retinanet-r50-torchvision": {**_TORCHVISION, "backbone": "resnet50"},
        "retinanet-r101-torchvision": {**_TORCHVISION, "backbone": "resnet101"},
    },
    "nasfpn": {
        "nasfpn-r50": {**_NASFPN, "backbone": "resnet50"},
        "nasfpn-r50-384": {
            **_NASFPN,
            "backbone": "resnet50",
            "pyramid_width": 384,
            "image_size": (1280, 1280),
        },
    },
}
