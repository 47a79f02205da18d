"""EfficientDet-D7x on COCO 2017.

python -m effdet_jax.train --config=configs/d7x.py --config.data.dir=coco --workdir=runs/d7x

Reference: AP 54.4 on val2017, 55.1 on test-dev2017 (google/automl's README: 600 epochs, batch 128, soft-NMS).
Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    # Its coarsest level is P8, so no side is below 256 px.
    return configs.coco("efficientdet-d7x", arg, num_epochs=600.0, smoke_size="256")
