"""ResNet-50 and NAS-FPN on COCO 2017: take it to compare BiFPN with the pyramid that a search found.

python -m effdet_jax.train --config=configs/nasfpn_r50.py --config.data.dir=coco \
  --config.init=resnet50.safetensors --workdir=runs/nasfpn_r50

Seven repeats of 256 channels: 60.06M parameters, 140.1B multiply-adds at 640 px, 358.6B at 1024, 560.3B
at 1280 (`--config.model.image_size=1280`). `--config.model.name=nasfpn-r50-384` is the one of 384
channels: 103.5M, 1039.7B at its 1280 px. Weights to start from are torchvision's or timm's resnet50.
Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.coco("nasfpn-r50", arg)
