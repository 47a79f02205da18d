"""EfficientNet-B0 as a classifier, by the recipe it was published with: a backbone made at home.

python -m effdet_jax.train --config=configs/classify_b0.py --config.data.dir=pictures --workdir=runs/classifier
python -m effdet_jax.train --config=finetune --config.data.dir=boxes --config.init=runs/classifier --workdir=runs/mine

`pictures` has a folder of images for each class, in train and val or alone. For TFDS:
--config.data.source=tfds --config.data.tfds_name=imagenet2012:5.1.0.
Reference: 76.7 % top-1 on ImageNet (arXiv:1905.11946, with AutoAugment 77.1). Not trained here yet.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke",))
    config = configs.get_config()
    config.model.name = "efficientnet-b0"
    config.model.anchor_scale = 0.0
    config.data.source = "folders"
    config.batch_size = 2048
    config.num_epochs = 350.0
    config.augment.ops = ("random_crop", "flip")
    config.loss.label_smoothing = 0.1
    config.optim.name = "rmsprop"
    config.optim.learning_rate = 0.004  # For 64 images: 0.016 for 256.
    config.optim.warmup_init = 0.0
    config.optim.warmup_epochs = 5.0
    config.optim.schedule = "exponential"
    config.optim.weight_decay = 1e-5
    config.optim.clip_norm = 0.0
    config.optim.ema_decay = 0.9999
    config.eval.every_epochs = 5.0
    if mode == "smoke":
        configs.smoke(config, image_size="64")
        config.data.shapes_most = config.data.max_boxes = 1  # A scene's shape is its class.
        config.augment.ops = ("flip",)
    return config
