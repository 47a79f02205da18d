"""EfficientDet-D0 with another fusion of its features: the comparison of the paper's table 6.

python -m effdet_jax.train --config=configs/fusion.py:softmax --config.data.dir=coco --workdir=runs/softmax

To see whether fusion weights matter for your data. In the paper softmax and fast fusion are within
0.11 AP of each other at three sizes (33.96 and 33.85 at the smallest), and fast fusion is 1.26 to 1.31
times faster; a weight per channel is no better than a scalar. Not trained here. Without a mode it is
fast fusion.
"""

from effdet_jax import config as configs

FUSIONS = ("fast", "softmax", "sum", "unbounded", "channel_fast", "channel_softmax")


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke", *FUSIONS))
    config = configs.coco("efficientdet-d0", "smoke" if mode == "smoke" else None)
    config.model.fusion = mode if mode in FUSIONS else "fast"
    return config
