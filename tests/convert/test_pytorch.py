import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from effdet_jax.convert.detectors import detector_variables, guess_spec
from effdet_jax.convert.pytorch import effdet_rules, pyramid_rules, repeats_first
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.rules import ConversionError, abstract_shapes, to_variables
from effdet_jax.convert.verify import run_layers
from effdet_jax.model.pyramid import NodeSettings, Pyramid
from effdet_jax.spec import PYTORCH, model_spec
from tests.tiny import tiny_spec


# Each part of the family once: the others differ in numbers of blocks, cells and convolutions.
@pytest.mark.parametrize("name", ["efficientdet-d1", "efficientdet-d7x", "efficientdet-lite3"])
def test_rules_fill_every_variable_once(name):
    assert_filled_once(model_spec(name))


@pytest.mark.parametrize(
    "changes",
    [
        {"pyramid": "panet", "fusion": "fast"},
        {"pyramid": "qufpn", "fusion": "sum", "max_level": 8, "image_size": (128, 128)},
        {"conv": "dense", "max_level": 5},
    ],
)
def test_rules_of_other_pyramids_fill_every_variable_once(changes):
    assert_filled_once(tiny_spec("efficientdet-d0", pyramid_cells=2, **changes))


def assert_filled_once(spec):
    rules = list(effdet_rules(spec))
    paths = [rule.path for rule in rules]
    names = {name for rule in rules for name in rule.names}
    assert sorted(paths) == sorted(abstract_shapes(spec)) and len(names) == len(rules)


@pytest.mark.parametrize("name", ["efficientdet-d0"])
def test_rules_without_redundant_biases(name):
    spec = model_spec(name, **PYTORCH)
    paths = [rule.path for rule in effdet_rules(spec)]
    assert sorted(paths) == sorted(abstract_shapes(spec))
    dropped = {rule.path for rule in effdet_rules(model_spec(name))} - set(paths)
    # One bias per resampling, per fusion node and per convolution of the two heads.
    nodes = spec.pyramid_cells * 8
    assert len(dropped) == 6 + nodes + 2 * spec.head_depth
    assert all(path.endswith("/bias") for path in dropped)


@pytest.mark.parametrize(
    "changes",
    [
        {"pyramid": "nasfpn"},
        {"pyramid": "panet", "fusion": "softmax"},
        {"fusion": "channel_fast"},
        {"fusion": "unbounded"},
        {"laterals": "level"},
        {"pooling": "disjoint"},
    ],
)
def test_pyramids_that_effdet_has_not_are_refused(changes):
    with pytest.raises(ConversionError, match=r"effdet has no pyramid.* it has bifpn with fast"):
        list(effdet_rules(tiny_spec("efficientdet-d0", **changes)))


def test_heads_that_count_levels_first_get_the_names_of_the_others():
    found = repeats_first({"class_net.bn_rep.4.1.running_var": 0, "box_net.bn_rep.4.1.bn.bias": 1})
    assert found == {"class_net.bn_rep.1.4.bn.running_var": 0, "box_net.bn_rep.4.1.bn.bias": 1}


def effdet():
    pytest.importorskip("torch", reason="needs torch")
    return pytest.importorskip("effdet", reason="needs effdet", exc_type=ImportError)


def lively(module, seed):
    """The module in eval mode with random weights that keep activations' size; its tensors."""
    import torch

    rng = np.random.default_rng(seed)
    for name, tensor in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
        if tensor.ndim == 4:
            scale = tensor[0].numel() ** -0.5
        elif name.endswith(("bias", "running_mean")):
            scale = 0.1
        elif tensor.is_floating_point():
            tensor.data.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tuple(tensor.shape))))
            continue
        else:
            continue
        tensor.data.copy_(torch.from_numpy(scale * rng.normal(size=tuple(tensor.shape))))
    module.eval()
    counters = "num_batches_tracked"
    tensors = {n: x.numpy() for n, x in module.state_dict().items() if not n.endswith(counters)}
    return module, tensors


def assert_close(found, expected):
    """Each level within 1e-5 of its largest magnitude; `expected` is [B, C, h, w]."""
    for level, x in expected.items():
        x = x.transpose(0, 2, 3, 1)
        error = np.abs(found[level] - x).max() / np.abs(x).max()
        assert error < 1e-5, f"{level}: off by {error:.1e} of its largest magnitude"


@pytest.mark.slow
def test_the_pyramid_of_cspresdext50pan_live():
    """Its backbone isn't here: random features of the backbone's widths instead."""
    import_of = effdet()
    import torch

    config = import_of.get_efficientdet_config("cspresdext50pan")
    config.image_size = (128, 256)
    widths = {3: 512, 4: 1024, 5: 2048}
    infos = [{"num_chs": width} for width in widths.values()]
    network, tensors = lively(import_of.efficientdet.BiFpn(config, infos), seed=0)
    spec = model_spec(
        "efficientdet-d1",
        **{**PYTORCH, "pyramid": "panet", "pyramid_cells": 3, "conv": "dense"},
    )
    assert spec.pyramid_width == config.fpn_channels and config.fpn_name == "pan_fa"
    settings = NodeSettings(88, "fast", "leaky_relu", "dense", False, "symmetric")
    pyramid = Pyramid(settings, spec.pyramid_cells, "panet")
    rng = np.random.default_rng(1)
    features = {
        level: rng.normal(size=(2, 128 >> level, 256 >> level, width)).astype(np.float32)
        for level, width in widths.items()
    }
    shapes = jax.eval_shape(pyramid.init, jax.random.key(0), features)
    expected = {
        f"{kind}/pyramid/{'/'.join(key.key for key in path)}": leaf
        for kind, tree in shapes.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    tensors = {f"fpn.{name}": x for name, x in tensors.items()}
    variables = to_variables(tensors, list(pyramid_rules(spec)), expected)
    variables = {kind: tree["pyramid"] for kind, tree in variables.items()}
    with torch.no_grad():
        outputs = network([torch.from_numpy(x.transpose(0, 3, 1, 2)) for x in features.values()])
    found = jax.jit(pyramid.apply)(variables, features)
    assert_close(found, {level: x.numpy() for level, x in zip(range(3, 8), outputs)})


@pytest.mark.slow
def test_efficientdet_q0_live(tmp_path):
    """As effdet builds and names it: the file is recognised, and gives the same predictions."""
    import_of = effdet()
    import torch

    config = import_of.get_efficientdet_config("efficientdet_q0")
    config.image_size = (128, 256)
    network, tensors = lively(import_of.EfficientDet(config, pretrained_backbone=False), seed=0)
    save_file({n: np.ascontiguousarray(x) for n, x in tensors.items()}, tmp_path / "q0.safetensors")
    weights = read_weights(tmp_path / "q0.safetensors")
    spec = guess_spec(weights)
    assert spec == model_spec("efficientdet-d0", pyramid="qufpn", **PYTORCH)
    images = np.random.default_rng(1).normal(size=(1, 128, 256, 3)).astype(np.float32)
    with torch.no_grad():
        outputs = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    found = run_layers(spec, detector_variables(weights, spec), images)
    for head, predictions in zip(("class", "box"), outputs):
        levels = {f"{head} P{n}": x.numpy() for n, x in zip(range(3, 8), predictions)}
        flat = {name: found[name].reshape(*found[name].shape[:3], -1) for name in levels}
        assert_close(flat, levels)
