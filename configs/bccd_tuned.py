"""EfficientDet-D0 from scratch on the BCCD blood cells, 256 px, tuned for a small data set.

python -m effdet_jax.train --config=configs/bccd_tuned.py --config.data.dir=DATA/bccd \\
    --workdir=runs/bccd_tuned
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke",))
    config = configs.get_config()
    config.model.image_size = "256"
    config.model.anchor_scale = 2.0  # Platelets are 16 px here, half the usual smallest anchor.
    config.batch_size = 8  # Twice the updates of batch 16 in the same time.
    config.num_epochs = 100.0
    config.optim.name = "adamw"
    config.optim.learning_rate = 0.006
    config.optim.warmup_init = 0.0
    config.optim.warmup_epochs = 3.0
    config.optim.weight_decay = 0.05
    config.optim.ema_decay = 0.998
    config.augment.scale_min = 0.5
    config.augment.scale_max = 1.6
    config.augment.vertical_flip = 0.5
    config.augment.colour = 0.2
    config.eval.every_epochs = 20.0
    config.eval.method = "gaussian"
    config.checkpoint_every_epochs = 20.0
    config.log_every_steps = 32
    return configs.smoke(config) if mode == "smoke" else config
