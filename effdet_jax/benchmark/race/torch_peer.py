"""PyTorch's effdet as a contestant: eager, channels-last, compiled; and the inputs all share.

The network's statistics are calibrated first. Uncalibrated ones let activations die out or blow up
through a hundred layers, and times of such a network aren't those of a trained one.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import effdet
import numpy as np
import torch
from effdet.data.transforms import ResizePad
from PIL import Image
from safetensors.torch import load_file, save_file

from effdet_jax.benchmark.race.case import INPUTS, ONNX, WEIGHTS, Case, as_result, by_anchor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BOXES_PER_IMAGE = 8
LEARNING_RATE, EMA_DECAY, CLIP_NORM = 1e-3, 0.9998, 10.0


def network(case: Case) -> torch.nn.Module:
    """effdet's model with random weights, dropping no path."""
    torch.manual_seed(0)
    model = effdet.create_model(
        f"tf_efficientdet_{case.model}",
        pretrained=False,
        pretrained_backbone=False,
        image_size=case.image_size,
    )
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
    return model


def write_inputs(case: Case, folder: pathlib.Path, *, onnx: bool) -> None:
    """Weights, inputs and, where asked for, the exported network: what all contestants read."""
    device = _device(case)
    model = network(case).to(device)
    rng = np.random.default_rng(0)
    batch, (height, width) = case.batch_size, case.image_size
    _calibrate(model, torch.randn(2, 3, height, width, device=device))
    save_file(model.state_dict(), folder / WEIGHTS)
    corners = rng.uniform(0, 0.5, (batch, BOXES_PER_IMAGE, 2)) * case.image_size
    sides = 30 + rng.uniform(0, 0.4, (batch, BOXES_PER_IMAGE, 2)) * case.image_size
    normal = rng.normal(size=(batch, height, width, 3)).astype(np.float32)
    arrays = {
        "normal": normal,
        "photos": _photos(rng, batch, (480, 640)),
        "images": _photos(rng, batch, case.image_size),
        "boxes": np.concatenate([corners, corners + sides], -1).astype(np.float32),
        "labels": rng.integers(0, 90, (batch, BOXES_PER_IMAGE)).astype(np.int32),
    }
    if case.task == "postprocess":
        with torch.no_grad():
            outputs = model(_tensor(normal, False, device))
        for name, levels, last in zip(("logits", "deltas"), outputs, (90, 4)):
            arrays[name] = by_anchor(_rows_first(levels), last)
    np.savez(folder / INPUTS, **arrays)
    if onnx:
        image = torch.zeros(batch, 3, height, width)
        torch.onnx.export(model, (image,), folder / ONNX, dynamo=True, opset_version=18)


def _calibrate(model: torch.nn.Module, images: torch.Tensor) -> None:
    """Sets the statistics of every batch normalisation to those of these images."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.running_var.clamp_(min=0.3 * float(norm.running_var.mean()) + 1e-6)
    model.eval()


def _photos(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """[count, H, W, 3] uint8: coarse random colours, enlarged."""
    small = rng.integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)
    enlarged = [
        Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC) for image in small
    ]
    return np.stack([np.asarray(image) for image in enlarged])


def _rows_first(levels: Any) -> list[np.ndarray]:
    """[B, A·D, H, W] per level → [B, H, W, A·D]."""
    return [_numpy(x.permute(0, 2, 3, 1)) for x in levels]


def _numpy(x: torch.Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


def prepare(name: str, case: Case, folder: pathlib.Path) -> tuple[Callable[[], Any], np.ndarray]:
    """See `runner.contestant_module`."""
    torch.backends.cudnn.benchmark = True
    model = network(case)
    model.load_state_dict(load_file(folder / WEIGHTS))
    channels_last = name != "PyTorch"
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    model = model.to(_device(case))
    arrays = dict(np.load(folder / INPUTS))
    prepared = {
        "forward": _forward,
        "detect": _detect,
        "postprocess": _postprocess,
        "train": _train,
    }
    return prepared[case.task](model, case, arrays, channels_last, name == "PyTorch compiled")


def _device(case: Case) -> torch.device:
    return torch.device("cuda" if case.device == "gpu" else "cpu")


def gpu_peak_mib() -> float:
    return torch.cuda.max_memory_allocated() / 2**20


def _tensor(images: np.ndarray, channels_last: bool, device: torch.device) -> torch.Tensor:
    """[B, H, W, 3] → [B, 3, H, W] in the memory format of the network."""
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    return x.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def _normalized(images: np.ndarray, channels_last: bool, device: torch.device) -> torch.Tensor:
    mean, std = (
        255 * torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD)
    )
    return _tensor(images, channels_last, device).float().sub_(mean).div_(std)


def _forward(model, case, arrays, channels_last, compiled):
    dtype = getattr(torch, case.dtype)
    model.eval().to(dtype)
    x = _tensor(arrays["normal"], channels_last, _device(case)).to(dtype)
    run = torch.compile(model) if compiled else model

    @torch.no_grad()
    def call():
        levels = run(x)
        if case.device == "gpu":
            torch.cuda.synchronize()
        return levels

    return call, as_result(*map(_rows_first, call()))


def _detect(model, case, arrays, channels_last, compiled):
    """Resize and normalise as effdet's loaders do; then `DetBenchPredict`."""
    bench = effdet.DetBenchPredict(model.eval())
    if compiled:
        bench.model = torch.compile(model)
    resize, device = ResizePad(model.config.image_size), _device(case)
    photos = arrays["photos"]

    @torch.no_grad()
    def call():
        placed = [resize(Image.fromarray(photo), {}) for photo in photos]
        x = _normalized(np.stack([np.asarray(image) for image, _ in placed]), channels_last, device)
        info = {
            "img_scale": torch.tensor([anno["img_scale"] for _, anno in placed]),
            "img_size": torch.tensor([photo.shape[1::-1] for photo in photos], dtype=torch.float32),
        }
        return bench(x, info)

    return call, _numpy(call()[..., 4])


def _postprocess(model, case, arrays, channels_last, compiled):
    """effdet's own selection, decoding and NMS from the levels that its network returns."""
    from effdet.bench import _batch_detection, _post_process

    bench = effdet.DetBenchPredict(model.eval())
    levels = tuple(_levels(arrays[name], model.config) for name in ("logits", "deltas"))
    process = torch.compile(_post_process) if compiled else _post_process

    @torch.no_grad()
    def call():
        found = process(*levels, bench.num_levels, bench.num_classes, bench.max_detection_points)
        scores, deltas, indices, classes = found
        boxes = bench.anchors.boxes
        return _batch_detection(len(scores), scores, deltas, boxes, indices, classes)

    return call, _numpy(call()[..., 4])


def _levels(flat: np.ndarray, config: Any) -> list[torch.Tensor]:
    """[B, N, D] → [B, A·D, H, W] per level."""
    levels, start = [], 0
    for level in range(config.min_level, config.max_level + 1):
        height, width = (-(-side // 2**level) for side in config.image_size)
        count = height * width * 9
        part = flat[:, start : start + count].reshape(len(flat), height, width, -1)
        levels.append(torch.from_numpy(np.ascontiguousarray(part.transpose(0, 3, 1, 2))))
        start += count
    return levels


def _train(model, case, arrays, channels_last, compiled):
    """Labels, forward, loss, backward, clipping, SGD and moving averages, as effdet_jax does.

    On a GPU labels are made once, before: effdet takes images one by one, which its users leave to
    the processes that load data.
    """
    from timm.utils import ModelEmaV3

    device = _device(case)
    bench = effdet.DetBenchTrain(model).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    averages = ModelEmaV3(model, decay=EMA_DECAY)
    boxes, labels = (torch.from_numpy(arrays[name]).to(device) for name in ("boxes", "labels"))
    labels = labels.float() + 1  # effdet's classes start at 1.
    label = functools.partial(bench.anchor_labeler.batch_label_anchors, boxes, labels)
    made_before = label() if case.device == "gpu" else None

    def loss_of(x, classes, deltas, num_positives):
        with torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            return bench.loss_fn(*model(x), classes, deltas, num_positives)[0]

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def call():
        x = _normalized(arrays["images"], channels_last, device)
        targets = made_before or label()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, *targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        averages.update(model)
        return float(loss.detach())

    return call, np.array([call()])
