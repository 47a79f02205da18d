"""EfficientDet-D0 on rendered shapes, 128 px: minutes on two cores, nothing to download.

python -m effdet_jax.train --config=configs/shapes.py --workdir=runs/shapes
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke",))
    config = configs.get_config()
    config.data.source = "shapes"
    config.model.image_size = "128"
    config.model.anchor_scale = 2.0  # Shapes are 19 to 68 px.
    config.batch_size = 8
    config.num_epochs = 4.0
    config.optim.name = "adamw"
    config.optim.learning_rate = 0.04
    config.optim.warmup_init = 0.0
    config.optim.warmup_epochs = 0.3
    config.optim.weight_decay = 0.05
    config.optim.ema_decay = 0.995  # A short run averages over fewer steps.
    config.augment.scale_min = 0.8  # Every scene is new: little else is needed.
    config.augment.scale_max = 1.25
    config.eval.every_epochs = 1.0
    config.log_every_steps = 50
    return configs.smoke(config) if mode == "smoke" else config
