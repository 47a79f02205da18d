"""EfficientDet-D0 with quad-FPN on COCO 2017.

python -m effdet_jax.train --config=configs/q0.py --config.data.dir=coco --workdir=runs/q0

For a little more accuracy at nearly D0's size: 4.1M parameters, 21 nodes a cell where BiFPN has 8.
PyTorch effdet's `efficientdet_q0`, the same but for its padding, has AP 35.7 on val2017 where its
`efficientdet_d0` has 33.6 (its README: hard NMS). Not trained here.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    config = configs.coco("efficientdet-d0", arg)
    config.model.pyramid = "qufpn"
    return config
