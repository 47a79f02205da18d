"""EfficientDet-Lite3 on COCO 2017.

python -m effdet_jax.train --config=configs/lite3.py --config.data.dir=coco --workdir=runs/lite3

Reference: AP 38.77 on val2017 (float) (google/automl's README: 300 epochs, batch 128, soft-NMS).
Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.coco("efficientdet-lite3", arg)
