import numpy as np

from effdet_jax.convert.rules import abstract_shapes
from effdet_jax.convert.zylo117 import unused_names, zylo117_rules
from effdet_jax.spec import model_spec


def test_every_variable_has_its_name():
    spec = model_spec("efficientdet-d0")
    rules = list(zylo117_rules(spec))
    assert {rule.path for rule in rules} == set(abstract_shapes(spec))
    names = {rule.path: rule.names[0] for rule in rules}
    cell = "params/pyramid/cell_0"
    assert names[f"{cell}/P4_td/P4_in/conv/kernel"] == "bifpn.0.p4_down_channel.0.conv.weight"
    assert names[f"{cell}/P4_out/P4_in/conv/bias"] == "bifpn.0.p4_down_channel_2.0.conv.bias"
    assert names[f"{cell}/P3_out/fusion/weights"] == "bifpn.0.p3_w1"
    assert names[f"{cell}/P7_out/fusion/weights"] == "bifpn.0.p7_w2"
    assert names[f"{cell}/P6_td/bn/scale"] == "bifpn.0.conv6_up.bn.weight"
    # By level, then by repeat.
    assert names["batch_stats/box_head/bn_2_P4/mean"] == "regressor.bn_list.1.2.running_mean"
    assert names["params/backbone/stem_conv/kernel"] == (
        "backbone_net.model._conv_stem.conv.weight"
    )


def test_weights_of_a_fusion_that_d6_does_not_compute_are_unused():
    head = "classifier.header.depthwise_conv.conv.weight"
    unused = unused_names({head: np.zeros((384, 1, 3, 3))})
    assert unused("bifpn.3.p6_w1") and not unused("bifpn.3.conv6_up.bn.weight")
    assert not unused_names({head: np.zeros((64, 1, 3, 3))})("bifpn.3.p6_w1")
