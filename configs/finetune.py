"""EfficientDet-D0 on your own images, from given weights or from scratch.

python -m effdet_jax.train --config=configs/finetune.py --config.data.dir=FOLDER \\
    --config.init=WEIGHTS --workdir=runs/mine

FOLDER holds images and annotations in any layout of docs/data.md: COCO JSON, Pascal VOC, YOLO, CSV;
validation images are drawn if it has none. WEIGHTS is the workdir of another run, a detector of PyTorch effdet or google/automl, or an ImageNet EfficientNet; its classes
need not be yours. Class names and their number come from the annotations.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    return configs.finetune(arg)
