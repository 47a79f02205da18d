"""EfficientDet-D0 with quad-FPN on COCO 2017.

python -m effdet_jax.train --config=configs/q0.py --config.data.dir=coco --workdir=runs/q0

For a little more accuracy at nearly D0's size: 4.1M parameters, each cell as expensive as two and a half
of BiFPN's. PyTorch effdet's `efficientdet_q0`, which this is, has AP 35.7 on val2017 where its
`efficientdet_d0` has 33.6 (its README: hard NMS). Not trained here.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    config = configs.coco("efficientdet-d0", arg)
    config.model.pyramid = "qufpn"
    return config
