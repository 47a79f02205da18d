import pytest

from effdet_jax.convert.efficientnet import (
    NAMES,
    automl_rules,
    automl_tf2_rules,
    telling_widths,
    timm_rules,
)


def named(rules):
    return {name: rule.path for rule in rules for name in rule.names}


def test_names_of_timm():
    names = named(timm_rules("efficientnet-b0"))
    assert names["conv_stem.weight"] == "params/backbone/stem_conv/kernel"
    # Without expansion the depthwise convolution comes first, and conv_pw projects.
    assert names["blocks.0.0.conv_dw.weight"] == "params/backbone/block_0/depthwise_conv/kernel"
    assert names["blocks.0.0.conv_pw.weight"] == "params/backbone/block_0/project_conv/kernel"
    assert names["blocks.1.0.conv_pw.weight"] == "params/backbone/block_1/expand_conv/kernel"
    # B0's third stage begins with its fourth block.
    assert names["blocks.2.0.bn3.running_var"] == "batch_stats/backbone/block_3/project_bn/var"
    assert names["blocks.2.0.se.conv_reduce.bias"] == "params/backbone/block_3/se/reduce/bias"
    prefixed = named(timm_rules("efficientnet-b0", "backbone."))
    assert prefixed == {f"backbone.{name}": path for name, path in names.items()}


def test_names_of_automl():
    names = named(automl_rules("efficientnet-b0"))
    top = "efficientnet-b0/blocks_0"
    assert names[f"{top}/conv2d/kernel"] == "params/backbone/block_0/project_conv/kernel"
    assert names[f"{top}/se/conv2d_1/bias"] == "params/backbone/block_0/se/expand/bias"
    top = "efficientnet-b0/blocks_1"
    assert names[f"{top}/conv2d/kernel"] == "params/backbone/block_1/expand_conv/kernel"
    assert (
        names[f"{top}/depthwise_conv2d/depthwise_kernel"]
        == "params/backbone/block_1/depthwise_conv/kernel"
    )
    bn = f"{top}/tpu_batch_normalization_2/gamma"
    assert names[bn] == "params/backbone/block_1/project_bn/scale"


def test_names_of_automl_in_tf2():
    names = named(automl_tf2_rules("efficientnet-b0"))
    assert "backbone/_blocks/0/_bn0/gamma" not in names
    top = "backbone/_blocks/0"
    assert names[f"{top}/_bn1/gamma"] == "params/backbone/block_0/depthwise_bn/scale"
    assert names["backbone/_blocks/1/_bn0/gamma"] == "params/backbone/block_1/expand_bn/scale"
    assert names[f"{top}/_se/_se_reduce/bias"] == "params/backbone/block_0/se/reduce/bias"


@pytest.mark.parametrize("kind", sorted(NAMES.rules))
def test_lite_has_no_channel_attention(kind):
    with_attention, without = (
        {rule.path for rule in NAMES.rules[kind](f"efficientnet-{name}")}
        for name in ("b0", "lite0")
    )
    # B0 and Lite0 have the same sixteen blocks; attention is two kernels and two biases each.
    assert without < with_attention and len(with_attention - without) == 4 * 16
    assert all("/se/" in path for path in with_attention - without)


def test_the_widths_tell_every_published_variant_apart_from_those_of_as_many_blocks():
    # Published widths, arXiv:1905.11946: 1.0 for B0 and B1, 1.1 for B2.
    assert list(telling_widths("efficientnet-b0").values()) == [32, 320]
    assert list(telling_widths("efficientnet-b2").values()) == [32, 352]
    assert list(telling_widths("efficientnet-lite2").values()) == [32, 352]
    assert "params/backbone/block_15/project_conv/kernel" in telling_widths("efficientnet-b0")
