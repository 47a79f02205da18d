"""RetinaNet with ResNet-101 on COCO 2017: take it where RetinaNet-R50 is too weak to compare with.

python -m effdet_jax.train --config=configs/retinanet_r101.py --config.data.dir=coco \
  --config.init=resnet101.safetensors --workdir=runs/retinanet_r101

53.06M parameters, 127.0B multiply-adds at 640 px, as EfficientDet's paper counts it. Its weights to
start from are torchvision's or timm's resnet101. Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.coco("retinanet-r101", arg)
