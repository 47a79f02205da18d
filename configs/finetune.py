"""EfficientDet-D0 on your own COCO-JSON folder, from given weights or from scratch.

python -m effdet_jax.train --config=configs/finetune.py --config.data.dir=FOLDER \\
    --config.init=WEIGHTS --workdir=runs/mine

FOLDER holds train and validation annotations and the images, in any usual layout (`train.json`,
`annotations/instances_train.json`, `train/_annotations.coco.json`, …). WEIGHTS is the workdir of
another run, a detector of PyTorch effdet or google/automl, or an ImageNet EfficientNet; its classes
need not be yours. Class names and their number come from the annotations.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke",))
    config = configs.get_config()
    for knob, value in configs.OPEN.items():  # What suits the data; `train` prints its choice.
        config.update_from_flattened_dict({knob: value})
    config.optim.name = "adamw"
    config.optim.weight_decay = 0.05
    config.optim.warmup_init = 0.0
    config.augment.scale_min = 0.5  # Small sets lose more than they gain by the reference's 0.1–2.
    config.augment.scale_max = 1.5
    config.augment.colour = 0.2
    config.log_every_steps = 20
    return configs.smoke(config) if mode == "smoke" else config
