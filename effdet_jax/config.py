"""Every knob with its default and unit, what it may be, and configs as plain data."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from effdet_jax.errors import UserError
from effdet_jax.protocols import PROTOCOLS

_CHOICES = {
    "dtype": ("auto", "float32", "bfloat16"),
    "remat": ("none", "blocks", "full"),
    "optim.name": ("sgd", "adamw", "rmsprop"),
    "optim.schedule": ("cosine", "stepwise", "exponential", "polynomial", "constant"),
    "loss.iou_kind": ("", "iou", "giou", "diou", "ciou"),
    "eval.protocol": tuple(PROTOCOLS),
    "eval.method": ("", "hard", "gaussian"),
    "eval.criterion": ("", "AP", "AP50", "AR", "mIoU", "top1", "top5"),
    "eval.weights": ("both", "averaged", "raw"),
    "bn": ("auto", "train", "frozen", "frozen_backbone"),
}
_AT_LEAST = {
    "batch_size": 0,
    "microbatches": 1,
    "mesh.fsdp": 1,
    "mesh.spatial": 1,
    "data.overfit": 0,
    "data.max_boxes": 0,
    "data.balance": 0,
    "data.val_fraction": 0,
    "data.workers": 0,
    "data.threads": 1,
    "log_every_steps": 1,
    "keep_checkpoints": 1,
    "max_bad_steps": 1,
    "num_steps": 0,
    "eval.max_detections": 0,
    "eval.patience": 0,
    "checkpoint_every_minutes": 0,
    "eval.pre_nms_top_k": 0,
}

# The value that leaves a knob open: `run.decisions` finds one that suits the data.
OPEN = {
    "batch_size": 0,
    "num_epochs": -1.0,
    "bn": "auto",
    "model.anchor_scale": -1.0,
    "optim.learning_rate": -1.0,
    "optim.warmup_epochs": -1.0,
    "optim.ema_decay": -1.0,
    "eval.every_epochs": -1.0,
}


class ConfigError(UserError):
    """A knob has an impossible value; the message names it and what it may be."""


def get_config() -> ConfigDict:
    """The defaults: the reference's recipe for COCO (google/automl, arXiv:1911.09070 section 5.1).

    The knobs of `OPEN` may have the value there: they are then decided by the data, and printed.
    """
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128  # Of all devices together.
    config.num_epochs = 300.0
    config.num_steps = 0  # Instead of num_epochs, if not 0.
    config.dtype = "auto"  # Of the computation: 'bfloat16', 'float32', or the device's best.
    config.remat = "none"  # 'blocks', 'full': computes activations twice to keep fewer of them.
    config.microbatches = 1  # Parts a batch is computed in, one after the other.
    config.init = ""  # Weights to start from: whatever `ed.load` takes, or an ImageNet backbone.
    config.freeze = ""  # What doesn't learn: 'backbone', 'pyramid', regular expressions, by commas.
    config.bn = "train"  # 'frozen', 'frozen_backbone': statistics and affine parameters stay.

    config.mesh = ConfigDict()  # Devices = data × fsdp × spatial; 'data' takes what these leave.
    config.mesh.fsdp = 1  # Splits the batch, and large parameters with optimizer and averages.
    config.mesh.spatial = 1  # Splits the rows of images and feature maps.

    config.model = ConfigDict()
    config.model.name = "efficientdet-d0"  # Or any other φ: 'efficientdet-d2.5'.
    config.model.image_size = ""  # '512' or '384x640' (height × width); '' is the model's own.
    config.model.backbone = ""  # '' and 0 are the model's own, here and below.
    config.model.pyramid_width = 0
    config.model.pyramid_cells = 0
    config.model.head_depth = 0
    config.model.max_level = 0  # Coarsest: of a 128 px image P6 and P7 are 2×2 and 1×1 cells.
    config.model.fusion = ""  # fast, softmax, unbounded, sum, channel_fast, channel_softmax.
    config.model.pyramid = ""  # bifpn, fpn, panet, simple_panet, fully_connected, qufpn, nasfpn.
    config.model.laterals = ""  # Where backbone levels get the pyramid's width: 'node', 'level'.
    config.model.pooling = ""  # Windows of the pyramid's max-pools: 'overlapping', 'disjoint'.
    config.model.conv = ""  # Of the pyramid and the heads: 'separable', 'dense'.
    # What is learned: retina, retinanet, torchvision, segment, retina+segment, classification.
    config.model.objective = ""
    config.model.anchor_scale = -1.0  # Side of the smallest anchor in strides: 4 is 32 px on P3.
    config.model.aspects = ()  # Width / height of the anchors, '(0.5, 1.0, 2.0)'.
    config.model.drop_connect = -1.0  # Rate of the backbone's last block; -1 is the model's own.
    config.model.dropout = -1.0  # Of a classifier's pooled features.

    config.data = ConfigDict()
    # coco, voc, yolo, csv, tfds, shapes; masks: of each image; folders: one for each class.
    config.data.source = "auto"
    config.data.dir = ""  # The data folder.
    config.data.train_json = ""  # Annotations that aren't in `dir`: a file or folder of any kind.
    config.data.val_json = ""
    config.data.train_images = ""  # Image folders, if they aren't found by themselves.
    config.data.val_images = ""
    config.data.val_fraction = 0.1  # Of the images, drawn where there is no split; 0 draws none.
    config.data.train_split = "train"  # TFDS only.
    config.data.val_split = "validation"
    config.data.tfds_name = ""  # 'coco/2017:1.1.0', below `dir`; '' reads `dir` itself.
    config.data.strict = False  # A bad box or file is an error instead of a count.
    config.data.tolerate = False  # So many faults that they can't be chance are no error.
    config.data.rescale = False  # Boxes made for another size of the images are scaled to theirs.
    config.data.intensity = ()  # Values of 16-bit and float images that become 0 and 255: (0, 4095).
    config.data.overfit = 0  # Images to train and evaluate on, the same for both; 0 is all.
    config.data.max_boxes = 0  # Ground-truth slots per image; 0 is as many as the data need.
    config.data.balance = 0.0  # Images of classes in fewer than this share are repeated; 0 is off.
    config.data.workers = 0  # Processes that decode and augment; 0 does it in threads.
    config.data.threads = 2
    config.data.shapes_size = 128  # 'shapes' only: side of a scene, pixels,
    config.data.shapes_train = 4000  # scenes that count as an epoch,
    config.data.shapes_val = 200  # scenes to evaluate on,
    config.data.shapes_most = 8  # and shapes in a scene at most.

    config.augment = ConfigDict()
    config.augment.ops = ("flip", "scale_jitter", "colour")  # Entries of `AUGMENTATIONS`, in order.
    config.augment.scale_min = 0.1
    config.augment.scale_max = 2.0
    config.augment.crop_area = 0.08  # Least share of an image that 'random_crop' takes.
    config.augment.horizontal_flip = 0.5  # Probabilities.
    config.augment.vertical_flip = 0.0
    config.augment.colour = 0.0  # Strength of brightness, contrast, saturation.

    config.optim = ConfigDict()
    config.optim.name = "sgd"  # 'sgd', 'adamw' or 'rmsprop'.
    config.optim.learning_rate = 0.08  # Peak for a batch of 64; scaled by batch_size / 64.
    config.optim.warmup_init = 0.008  # At step 0, scaled likewise.
    config.optim.warmup_epochs = 1.0
    config.optim.schedule = "cosine"  # cosine, stepwise, exponential, polynomial, constant.
    config.optim.drop_epochs = (200.0, 250.0)  # 'stepwise' only.
    config.optim.decay_epochs = 2.4  # 'exponential' only: so often the rate is multiplied by this.
    config.optim.decay_rate = 0.97
    config.optim.momentum = 0.9
    config.optim.weight_decay = 4e-5
    config.optim.clip_norm = 10.0  # Of each gradient, then of all together; 0 is off.
    config.optim.ema_decay = 0.9998  # 0 is off.
    config.optim.warm_up_statistics = True  # Of batch normalisation; the reference doesn't.

    config.loss = ConfigDict()
    config.loss.alpha = 0.25
    config.loss.gamma = 1.5
    config.loss.label_smoothing = 0.0
    config.loss.delta = 0.1
    config.loss.box_weight = 50.0
    config.loss.iou_kind = ""  # '', 'iou', 'giou', 'diou', 'ciou'.
    config.loss.iou_weight = 1.0
    config.loss.class_weights = ""  # '' is off; 'auto' favours rare classes; or 'cat:2,dog:0.5'.

    config.eval = ConfigDict()
    config.eval.every_epochs = 10.0  # And at the end; 0 is at the end only.
    # What the best checkpoint is best by: AP, AP50, AR, mIoU, top1, top5; '' is the objective's first.
    config.eval.criterion = ""
    config.eval.patience = 0  # Evaluations without a better one that end the run; 0 is off.
    config.eval.weights = "both"  # 'averaged', 'raw', or both of them: the better ones count.
    config.eval.batch_size = 0  # 0 is the training batch size.
    config.eval.loss = True  # Whether the loss on the validation images is computed, too.
    config.eval.protocol = "default"  # 'default' or 'published', the tables in `PROTOCOLS`.
    config.eval.method = ""  # NMS: 'hard', or 'gaussian' for soft-NMS; '' is the protocol's own.
    config.eval.iou_threshold = -1.0  # Of hard NMS; -1 is the protocol's own, here and below.
    config.eval.sigma = -1.0  # Of soft-NMS.
    config.eval.score_threshold = -1.0
    config.eval.max_detections = 0  # 0 is the protocol's own, here and below.
    config.eval.pre_nms_top_k = 0  # (Anchor, class) pairs that enter NMS.
    config.eval.pixel_offset = -1.0  # Pixels added to each side before the IoU.

    config.log = ConfigDict()
    config.log.wandb = ""  # Project of Weights & Biases to send numbers and pictures to; '' is off.

    config.log_every_steps = 50
    config.checkpoint_every_epochs = 1.0
    config.checkpoint_every_minutes = 0.0  # Besides; 0 is off.
    config.keep_checkpoints = 2  # Of the last ones; the best is kept beside them.
    config.max_bad_steps = 10  # Non-finite steps in a row that stop the run.
    return config


def parse_arg(arg: str | None, modes: tuple[str, ...]) -> str:
    """The mode in `--config=configs/d0.py:smoke`, '' if there is none.

    Raises:
      ConfigError: a mode this config doesn't have.
    """
    if arg and arg not in modes:
        raise ConfigError(f"unknown config mode '{arg}'; there are {', '.join(modes)}")
    return arg or ""


def smoke(config: ConfigDict, *, image_size: str = "128") -> ConfigDict:
    """The same experiment in a minute on a laptop: a few steps on rendered scenes.

    Args:
      config: is changed, and returned.
      image_size: side of the network input, at least 2 ** (the model's coarsest level).
    """
    config.data.source = "shapes"
    config.data.shapes_train, config.data.shapes_val = 32, 8
    config.model.image_size = image_size
    config.batch_size = 8
    config.num_steps = 4
    config.log_every_steps = 1
    return config


def coco(
    name: str, arg: str | None = None, *, num_epochs: float = 300.0, smoke_size: str = "128"
) -> ConfigDict:
    """The reference's COCO experiment for one variant: the defaults, evaluated as published.

    Args:
      name: of the model.
      arg: the mode, '' or 'smoke'.
      smoke_size: image size of the mode 'smoke'.
    """
    mode = parse_arg(arg, modes=("smoke",))
    config = get_config()
    config.model.name = name
    config.num_epochs = num_epochs
    config.model.anchor_scale = 0.0
    config.optim.warm_up_statistics = False
    config.eval.weights = "averaged"
    set_protocol(config, "published")
    return smoke(config, image_size=smoke_size) if mode == "smoke" else config


def finetune(arg: str | None = None) -> ConfigDict:
    """A recipe for sets of any size: AdamW, weak scale jitter, and what `OPEN` names left open.

    Args:
      arg: the mode, '' or 'smoke'.
    """
    mode = parse_arg(arg, modes=("smoke",))
    config = get_config()
    config.update_from_flattened_dict(OPEN)
    config.optim.name = "adamw"
    config.optim.weight_decay = 0.05
    config.optim.warmup_init = 0.0
    config.augment.scale_min = 0.5  # Small sets lose more than they gain by the reference's 0.1–2.
    config.augment.scale_max = 1.5
    config.augment.colour = 0.2
    config.log_every_steps = 20
    return smoke(config) if mode == "smoke" else config


def set_protocol(config: ConfigDict, name: str):
    """Evaluates by a protocol of `PROTOCOLS`, and forgets the knobs that would change it."""
    defaults = get_config().eval
    config.eval.update({knob: defaults[knob] for knob in PROTOCOLS[name]})
    config.eval.protocol = name


def detect_options(chosen: ConfigDict) -> dict[str, Any]:
    """Keywords of `postprocess.detect` by `config.eval`: the protocol's, but for the knobs set."""
    unset = get_config().eval
    return {
        knob: chosen[knob] if chosen[knob] != unset[knob] else protocols_own
        for knob, protocols_own in PROTOCOLS[chosen.protocol].items()
    }


def flatten(config: ConfigDict | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optim.learning_rate': 0.08, …}."""
    flat = {}
    for name, value in config.items():
        nested = isinstance(value, Mapping | ConfigDict)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def validate(config: ConfigDict):
    """Catches what can be seen before any work is done.

    Raises:
      ConfigError: names the knob, its value and what it may be.
    """
    flat = flatten(config)
    for key, allowed in _CHOICES.items():
        if flat[key] not in allowed:
            known = ", ".join(repr(value) for value in allowed)
            raise ConfigError(f"--config.{key}={flat[key]!r} isn't one of {known}")
    for key, least in _AT_LEAST.items():
        if flat[key] < least:
            raise ConfigError(f"--config.{key}={flat[key]} must be at least {least}")
    if config.num_steps == 0 and config.num_epochs <= 0 and config.num_epochs != OPEN["num_epochs"]:
        raise ConfigError(
            f"zero steps to train: num_epochs is {config.num_epochs} and num_steps 0; set one of "
            "them: --config.num_epochs=50"
        )
    intensity = config.data.intensity
    if intensity and not (len(intensity) == 2 and intensity[0] < intensity[1]):
        raise ConfigError(
            f"--config.data.intensity={intensity!r} must be (low, high), such as (0, 4095)"
        )
    low, high = config.augment.scale_min, config.augment.scale_max
    if not 0 < low <= high:
        raise ConfigError(f"augment.scale_min {low} and scale_max {high} must be 0 < min ≤ max")


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of '512' or '384x640'.

    Raises:
      ConfigError: it is neither.
    """
    parts = str(text).lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"image size '{text}' isn't like '512' or '384x640' (height × width)")
    return int(parts[0]), int(parts[-1])


def plain(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain JSON types, for checkpoints."""
    return {
        name: plain(value)
        if isinstance(value, Mapping | ConfigDict)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in config.items()
    }


def from_plain(fields: Mapping[str, Any]) -> ConfigDict:
    """The config that `plain` was made of; knobs it doesn't know are left out, new ones keep their
    default."""
    config = get_config()
    known = flatten(config)
    for key, value in flatten(fields).items():
        if key in known:
            config.update_from_flattened_dict(
                {key: tuple(value) if isinstance(value, list) else value}
            )
    return config
