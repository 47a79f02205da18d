"""Records what PyTorch's effdet computes with a tiny network; the tests need its two files only.

    pip install torch==2.13.0 omegaconf pillow pycocotools pyyaml safetensors huggingface_hub
    pip install --no-deps timm==1.0.31 effdet==0.4.1
    python tests/goldens/record.py

It is an EfficientDet-D0 made small: 72×96 px, so that sides are halved from odd numbers, too; a
backbone of width 0.09 and depth 0.3 (one residual block with an expansion); two cells of 12
channels, heads two deep, three classes. Weights are random, but lively: statistics are measured and
then moved, and some fusion weights are negative, so that the ReLU above them matters.

`weights.safetensors`: effdet's state dict. Its numbers are float16's, which every program can widen
exactly. `results.npz`: computed in float64 (effdet's loss turns logits to float32), kept as
float32, channels last:

    images [4, 72, 96, 3] uint8; the network sees image / 128 - 1
    boxes [4, G, 4] yxyx, pixels; labels [4, G], -1 is padding; anchors [N, 4] yxyx
    targets/labels/P3 … [4, H, W, A], -1 is background; targets/box_deltas/P3 … [4, H, W, A, 4]
    targets/num_positives [4]

Inference, on the first two images:

    backbone/P3 … P5; pyramid/P6, P7: what enters the first cell; cell_0/P3 …, cell_1/P3 …
    class_logits/P3 … [2, H, W, A, K]; box_deltas/P3 … [2, H, W, A, 4]
    losses, losses/smoothed (label smoothing 0.1): (total, class, box) of these
    detections [2, 100, 6]: x0, y0, x1, y1, score, class from 1; hard NMS of the 1000 best at 0.5

One training step on all four, with statistics of the batch:

    train/class_logits/P3 …, train/box_deltas/P3 …: of the first image; train/losses
    train/gradients: of all parameters in order of their names, each flattened
    train/statistics: running means and variances after it, likewise
"""

import copy
import os
import pathlib
import sys
from unittest import mock

os.environ["PYTORCH_JIT"] = "0"  # Nothing is compiled: `batched_nms` below is plain Python.

import numpy as np
import torch
from torch import nn


def batched_nms(boxes, scores, classes, iou_threshold):
    """Indices of the boxes kept, best first: greedy, each class for itself."""
    overlaps = (effdet.soft_nms.pairwise_iou(boxes, boxes) > iou_threshold).numpy()
    classes, kept = classes.numpy(), np.zeros(len(boxes), bool)
    order = scores.argsort(descending=True, stable=True).numpy()
    for index in order:
        kept[index] = not np.any(overlaps[index] & kept & (classes == classes[index]))
    return torch.from_numpy(order[kept[order]])


# effdet and timm import torchvision, which must be built for this very torch. Of what they take
# from it, only this function is called here.
for name in ("", ".datasets", ".ops.boxes", ".ops.misc", ".transforms", ".transforms.functional"):
    sys.modules[f"torchvision{name}"] = mock.MagicMock()
sys.modules["torchvision.ops.boxes"].batched_nms = batched_nms
sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (), {})

import effdet
import effdet.soft_nms
from effdet.anchors import AnchorLabeler, Anchors
from effdet.bench import _batch_detection, _post_process
from effdet.config import set_config_writeable
from effdet.loss import loss_fn
from safetensors.torch import save
from timm.models import register_model
from timm.models.efficientnet import _gen_efficientnet

torch.set_num_threads(1)  # The same bits every time.
FOLDER = pathlib.Path(__file__).parent
SIZE = (72, 96)
LEVELS = range(3, 8)
CHANGES = {
    "name": "tiny",
    "backbone_name": "tiny_backbone",
    "backbone_args": {},
    "image_size": SIZE,
    "num_classes": 3,
    "anchor_scale": 1.25,
    "fpn_channels": 12,
    "fpn_cell_repeats": 2,
    "box_class_repeats": 2,
    "max_detection_points": 1000,
}
# (ymin, xmin, ymax, xmax), class of every object of the four images. Two small ones fit the same
# anchor best, and every level has something to find.
TRUTH = (
    [((10, 12, 50, 60), 0), ((0, 40, 30, 96), 2), ((20.5, 70, 33, 84.25), 1)],
    [],
    [((2, 3, 71, 92), 1), ((30, 30, 62, 64), 1), ((2, 2, 8, 8), 2), ((1, 1, 9, 9), 0)],
    [((40, 2, 70, 40), 2), ((50, 4, 66, 20), 2)],
)


@register_model
def tiny_backbone(pretrained=False, **options):
    """TensorFlow's flavour of EfficientNet, with batch normalisation as effdet has it elsewhere."""
    flavour = {"bn_eps": 1e-3, "bn_momentum": 0.01, "pad_type": "same"}
    return _gen_efficientnet("tf_efficientnet_b0", 0.09, 0.3, **flavour, **options)


def make_model(generator: torch.Generator) -> nn.Module:
    """The network in float64, of weights that are float16 numbers."""

    def normal(like, mean, deviation):
        return mean + deviation * torch.randn(like.shape, generator=generator, dtype=torch.float64)

    def uniform(like, low, high):
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=torch.float64)

    config = effdet.get_efficientdet_config("tf_efficientdet_d0")
    set_config_writeable(config)
    config.update(CHANGES)
    model = effdet.EfficientDet(config, pretrained_backbone=False).double()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("edge_weights"):
                parameter.copy_(uniform(parameter, -0.5, 1.5))
                parameter[0].abs_()  # No node is left without inputs.
            elif parameter.dim() == 4:
                parameter.copy_(normal(parameter, 0, parameter[0].numel() ** -0.5))
            elif name == "class_net.predict.conv_pw.bias":
                parameter.copy_(normal(parameter, -2, 0.3))
            elif name.endswith("bias"):
                parameter.copy_(normal(parameter, 0, 0.2))
            else:  # A batch normalisation's scale.
                parameter.copy_(uniform(parameter, 0.6, 1.4))
        measured = copy.deepcopy(model).train()
        for module in measured.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        measured(normal(torch.empty(16, 3, *SIZE), 0, 0.6))
        model.load_state_dict(measured.state_dict())
        for module in norms:
            variance, mean = module.running_var, module.running_mean
            variance.clamp_(min=0.3 * float(variance.mean()))
            mean.add_(0.1 * variance.sqrt() * normal(mean, 0, 1))
            variance.mul_(uniform(variance, 0.8, 1.25))
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    return model.eval()


def by_level(prefix: str, features, *ends: int) -> dict[str, torch.Tensor]:
    """{'prefix/P3': [B, H, W, *ends]} of features [B, C, H, W], finest first."""
    found = {}
    for level, x in zip(LEVELS, features):
        x = x.detach().permute(0, 2, 3, 1)
        found[f"{prefix}/P{level}"] = x.reshape(*x.shape[:3], *ends) if ends else x
    return found


def outputs_by_level(prefix: str, classes, boxes) -> dict[str, torch.Tensor]:
    return by_level(f"{prefix}class_logits", classes, 9, 3) | by_level(
        f"{prefix}box_deltas", boxes, 9, 4
    )


def losses_of(config, classes, boxes, targets, **options) -> tuple[torch.Tensor, ...]:
    """(total, class, box) losses with the model's own settings."""
    names = ("num_classes", "alpha", "gamma", "delta", "box_loss_weight")
    settings = {name: getattr(config, name) for name in names}
    return loss_fn(classes, boxes, *targets, **settings, legacy_focal=False, **options)


def truth() -> tuple[torch.Tensor, torch.Tensor]:
    """(boxes [4, 5, 4], labels [4, 5]), padded with zeros and -1."""
    boxes, labels = torch.zeros(4, 5, 4), torch.full((4, 5), -1)
    for image, objects in enumerate(TRUTH):
        for slot, (box, label) in enumerate(objects):
            boxes[image, slot], labels[image, slot] = torch.tensor(box), label
    return boxes, labels


def record() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(weights, results) as the top of this file describes them."""
    generator = torch.Generator().manual_seed(0)
    model = make_model(generator)
    config = model.config
    weights = {
        name: tensor.half()
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }

    # Of four values per channel: a quarter of the bytes once compressed.
    images = 85 * torch.randint(0, 4, (4, *SIZE, 3), generator=generator, dtype=torch.uint8)
    x = images.permute(0, 3, 1, 2).double() / 128 - 1
    boxes, labels = truth()
    anchors = Anchors.from_config(config)
    labeler = AnchorLabeler(anchors, config.num_classes, match_threshold=0.5)
    targets = labeler.batch_label_anchors(boxes, torch.where(labels >= 0, labels + 1, -1).float())
    results = {"images": images, "boxes": boxes, "labels": labels, "anchors": anchors.boxes}
    for level, level_labels, deltas in zip(LEVELS, *targets[:2]):
        results[f"targets/labels/P{level}"] = level_labels
        results[f"targets/box_deltas/P{level}"] = deltas.reshape(*level_labels.shape, 4)
    results["targets/num_positives"] = targets[2]

    with torch.no_grad():
        features = model.backbone(x[:2])
        results |= by_level("backbone", features)
        for resample in model.fpn.resample.values():
            features.append(resample(features[-1]))
        entering = by_level("pyramid", features)
        results |= {name: entering[name] for name in ("pyramid/P6", "pyramid/P7")}
        for number, cell in enumerate(model.fpn.cell):
            features = cell(features)
            results |= by_level(f"cell_{number}", features)
        outputs = [[x.float() for x in levels] for levels in model(x[:2])]
        results |= outputs_by_level("", *outputs)
        two = [[level[:2] for level in levels] for levels in targets[:2]] + [targets[2][:2]]
        for name, smoothing in (("losses", 0.0), ("losses/smoothed", 0.1)):
            found = losses_of(config, *outputs, two, label_smoothing=smoothing)
            results[name] = torch.stack(found)
        best, deltas, indices, classes = _post_process(
            *outputs, len(LEVELS), config.num_classes, config.max_detection_points
        )
        results["detections"] = _batch_detection(
            2, best, deltas, anchors.boxes, indices, classes, max_det_per_image=100
        )

    outputs = model.train()(x)
    results |= outputs_by_level("train/", *([level[:1] for level in levels] for levels in outputs))
    losses = losses_of(config, *outputs, targets)
    losses[0].backward()
    results["train/losses"] = torch.stack(losses).detach()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    statistics = {name: x for name, x in model.state_dict().items() if "running" in name}
    for key, tensors in (("gradients", gradients), ("statistics", statistics)):
        results[f"train/{key}"] = torch.cat([tensors[name].flatten() for name in sorted(tensors)])
    return weights, results


def main():
    weights, results = record()
    (FOLDER / "weights.safetensors").write_bytes(save(weights))
    arrays = {name: x.numpy() for name, x in results.items()}
    narrow = {"f": np.float32, "i": np.int8, "u": np.uint8}
    np.savez_compressed(
        FOLDER / "results.npz",
        **{name: x.astype(narrow[x.dtype.kind]) for name, x in arrays.items()},
    )


if __name__ == "__main__":
    main()
