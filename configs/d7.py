"""EfficientDet-D7 on COCO 2017.

python -m effdet_jax.train --config=configs/d7.py --config.data.dir=coco --workdir=runs/d7

Reference: AP 53.4 on val2017, 53.7 on test-dev2017 (google/automl's README: 600 epochs, batch 128, soft-NMS).
Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.coco("efficientdet-d7", arg, num_epochs=600.0)
