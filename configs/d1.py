"""EfficientDet-D1 on COCO 2017.

python -m effdet_jax.train --config=configs/d1.py --config.data.dir=coco --workdir=runs/d1

Reference: AP 40.2 on val2017, 40.5 on test-dev2017 (google/automl's README: 300 epochs, batch 128, soft-NMS).
Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.coco("efficientdet-d1", arg)
