import numpy as np
import pytest

from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.state_dict import find_tensors, named_architecture

NETWORK = {"head.weight": np.float32([1, 2]), "stem.bias": np.float32([3])}


def with_prefix(prefix, factor=1):
    return {prefix + name: factor * array for name, array in NETWORK.items()}


def find(found, *, raw=False):
    notes = []
    tensors = find_tensors("w.pth", found, ["head.weight"], raw=raw, notes=notes)
    assert tensors.keys() == NETWORK.keys()
    return tensors["stem.bias"][0], notes


@pytest.mark.parametrize(
    "prefix", ["", "_orig_mod.", "module._orig_mod.", "model.model.", "student.", "net.a.b.c."]
)
def test_any_prefix_is_found_and_said(prefix):
    value, notes = find({"epoch": 3, "state_dict": with_prefix(prefix)})
    assert value == 3 and notes[0] == "'state_dict' taken, not epoch"
    assert notes[1:] == ([f"prefix '{prefix}' removed from 2 names"] if prefix else [])


def test_what_is_outside_the_prefix_is_named():
    _, notes = find({"n_averaged": np.array(3), **with_prefix("module.")})
    assert notes[1] == "left out: 1 tensors outside 'module.' (n_averaged)"


def test_averages_are_taken_unless_raw_ones_are_asked_for():
    both = {**with_prefix("model."), **with_prefix("ema_model.module.", 2)}
    value, notes = find(both)
    assert value == 6
    assert notes[0] == "moving averages taken, not model (--raw takes the network itself)"
    value, notes = find(both, raw=True)
    assert value == 3 and notes[0] == "the network itself taken, not ema_model.module"
    bare = {**NETWORK, **with_prefix("ema.", 2)}
    assert find(bare)[0] == 6 and find(bare, raw=True)[0] == 3


def test_without_tensors_there_is_nothing_to_find():
    with pytest.raises(ConversionError, match="'w.pth' holds no state dict"):
        find_tensors("w.pth", {"epoch": 3}, ["x"], raw=False, notes=[])


def test_the_architecture_is_found_where_scripts_put_it():
    assert named_architecture({"arch": "tf_efficientdet_d0", "args": {"model": "x"}}) == (
        "tf_efficientdet_d0"
    )
    assert named_architecture({"args": {"model": "efficientdet_d1"}}) == "efficientdet_d1"
    assert named_architecture({"arch": "resnet50"}) == "" == named_architecture([1])
