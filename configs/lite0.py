"""EfficientDet-Lite0 on COCO 2017.

python -m effdet_jax.train --config=configs/lite0.py --config.data.dir=coco --workdir=runs/lite0

Reference: AP 26.41 on val2017 (float) (google/automl's README: 300 epochs, batch 128, soft-NMS).
Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.coco("efficientdet-lite0", arg)
