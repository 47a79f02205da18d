"""Records what torchvision computes with a small RetinaNet; the tests need its file only.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_torchvision.py

It is `retinanet_resnet50_fpn` made small: a block per stage but two in the first, 32 channels in
pyramid and heads, heads two deep, three classes, 96×160 px. Its weights aren't kept: `draw` makes
them of their names and shapes, and the tests draw the same. They are lively: variances and scales
are around 1, and kernels keep the magnitude of what goes through. `torchvision.npz`, computed in
float64 and kept as float32, channels last:

    names [T], shapes [T, 4]: of the state dict, less its counters of batches; 0 is no axis
    images [1, 96, 160, 3]: what the network sees, already normalised
    backbone/P3 … P5 [1, h, w, C / 16]: after the last ReLU, every sixteenth channel
    pyramid/P3 … P7 [1, h, w, 32]: after the 3×3 convolutions
    class_logits [1, N, K], box_deltas [1, N, 4] (dx, dy, dw, dh): level, y, x, anchor
    anchors [N, 4], boxes [M, 4]: x0, y0, x1, y1; scores [M], labels [M]: what it finds
"""

import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent
SIZE = (96, 160)


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a tensor of the state dict, float32, from its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape)
    if len(shape) == 4:  # Shortcuts and branches add up: neither may grow.
        values *= np.sqrt(1 / np.prod(shape[1:]))
    elif name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "1.weight")):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values *= 0.1
    if name == "head.classification_head.cls_logits.bias":
        values -= 3  # Few are surer than 0.05.
    return values.astype(np.float32)


def make_model():
    """The network in float64, and its state dict's names and shapes."""
    import torch
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead, _default_anchorgen
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    body = ResNet(Bottleneck, [2, 1, 1, 1])
    layers = {f"layer{stage}": str(stage - 2) for stage in (2, 3, 4)}
    extra = LastLevelP6P7(32, 32)
    backbone = BackboneWithFPN(body, layers, [512, 1024, 2048], 32, extra_blocks=extra)
    anchors = _default_anchorgen()
    head = RetinaNetHead(32, anchors.num_anchors_per_location()[0], 3)
    for part in (head.classification_head, head.regression_head):
        part.conv = part.conv[:2]
    model = RetinaNet(backbone, 3, anchor_generator=anchors, head=head).double().eval()
    state = model.state_dict()
    drawn = {n: draw(n, tuple(x.shape)) for n, x in state.items() if x.is_floating_point()}
    model.load_state_dict({n: torch.from_numpy(x) for n, x in drawn.items()}, strict=False)
    return model, {name: x.shape for name, x in drawn.items()}


def record() -> dict[str, np.ndarray]:
    """The results as the top of this file describes them."""
    import torch
    from torchvision.models.detection.image_list import ImageList

    model, shapes = make_model()
    images = np.random.default_rng(0).standard_normal((1, *SIZE, 3)).astype(np.float32)
    x = torch.from_numpy(images).double().permute(0, 3, 1, 2)
    rows = [(*shape, 0, 0, 0)[:4] for shape in shapes.values()]
    found = {"images": images, "names": list(shapes), "shapes": rows}
    with torch.no_grad():
        last = lambda features: [y.permute(0, 2, 3, 1).numpy() for y in features.values()]
        found |= {
            f"backbone/P{n}": y[..., ::16] for n, y in enumerate(last(model.backbone.body(x)), 3)
        }
        pyramid = model.backbone(x)
        found |= {f"pyramid/P{n}": y for n, y in enumerate(last(pyramid), 3)}
        outputs = model.head(list(pyramid.values()))
        anchors = model.anchor_generator(ImageList(x, [SIZE]), list(pyramid.values()))
        counts = [9 * y.shape[2] * y.shape[3] for y in pyramid.values()]
        split = {name: list(y.split(counts, dim=1)) for name, y in outputs.items()}
        boxes = [list(a.split(counts)) for a in anchors]
        (detections,) = model.postprocess_detections(split, boxes, [SIZE])
    found |= {"class_logits": outputs["cls_logits"].numpy(), "anchors": anchors[0].numpy()}
    found["box_deltas"] = outputs["bbox_regression"].numpy()
    return found | {name: x.numpy() for name, x in detections.items()}


def main():
    arrays = {name: np.asarray(x) for name, x in record().items()}
    narrow = {name: np.float32 for name, x in arrays.items() if x.dtype == np.float64}
    np.savez_compressed(
        FOLDER / "torchvision.npz",
        **{name: x.astype(narrow.get(name, x.dtype)) for name, x in arrays.items()},
    )


if __name__ == "__main__":
    main()
