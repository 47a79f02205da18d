"""EfficientDet-D2 on COCO 2017.

python -m effdet_jax.train --config=configs/d2.py --config.data.dir=coco --workdir=runs/d2

Reference: AP 43.5 on val2017, 43.9 on test-dev2017 (google/automl's README: 300 epochs, batch 128, soft-NMS).
Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.coco("efficientdet-d2", arg)
