"""EfficientDet-D0 on COCO 2017.

python -m effdet_jax.train --config=configs/d0.py --config.data.dir=coco --workdir=runs/d0

Reference: AP 34.3 on val2017, 34.6 on test-dev2017 (google/automl's README: 300 epochs, batch 128, soft-NMS).
Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.coco("efficientdet-d0", arg)
