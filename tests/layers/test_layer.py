from flax import linen as nn

from effdet_jax.layers.convolution import Conv, SeparableConv
from effdet_jax.layers.layer import decayed_parameters, separate_parameters
from effdet_jax.model.merge import WeightedFusion


def test_layers_declare_what_decays_and_what_is_clipped_apart():
    assert decayed_parameters(Conv(3)) == ("kernel",)
    assert decayed_parameters(SeparableConv(3)) == ()  # Its two convolutions declare their own.
    assert separate_parameters(WeightedFusion("fast")) == ("weights",)
    assert separate_parameters(Conv(3)) == ()


def test_kernels_of_flax_layers_decay_and_nothing_else_of_flax():
    assert decayed_parameters(nn.Conv(3, (1, 1))) == decayed_parameters(nn.Dense(3)) == ("kernel",)
    assert decayed_parameters(nn.BatchNorm()) == decayed_parameters(nn.LayerNorm()) == ()


def test_a_module_from_elsewhere_declares_its_own():
    class Codes(nn.Module):
        decayed = ("codebook",)

    assert decayed_parameters(Codes()) == ("codebook",)
