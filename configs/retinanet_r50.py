"""RetinaNet with ResNet-50 on COCO 2017: take it to compare EfficientDets with, by the same trainer.

python -m effdet_jax.train --config=configs/retinanet_r50.py --config.data.dir=coco \
  --config.init=resnet50.safetensors --workdir=runs/retinanet_r50

34.07M parameters, 96.7B multiply-adds at 640 px, as EfficientDet's paper counts it. Its weights to start
from are torchvision's or timm's resnet50. Reference: AP 39.2 on val2017 (arXiv:1911.09070, appendix,
by EfficientDet's trainer). Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.coco("retinanet-r50", arg)
