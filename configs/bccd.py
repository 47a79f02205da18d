"""EfficientDet-D0 from scratch on the BCCD blood cells (205 train, 87 val images), 256 px.

python -m effdet_jax.train --config=configs/bccd.py --config.data.dir=DATA/bccd --workdir=runs/bccd
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke",))
    config = configs.get_config()
    config.model.image_size = "256"
    config.model.anchor_scale = 0.0  # The published one, as in the recorded runs.
    config.batch_size = 16
    config.num_epochs = 100.0
    config.optim.warmup_epochs = 5.0
    config.eval.every_epochs = 20.0
    config.checkpoint_every_epochs = 20.0
    config.log_every_steps = 32
    return configs.smoke(config) if mode == "smoke" else config
