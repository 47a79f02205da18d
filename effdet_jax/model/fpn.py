"""The feature pyramid of RetinaNet, whose top-down sums run over features without a convolution.

Lin et al., arXiv:1612.03144 and arXiv:1708.02002. The nodes of `model.pyramid` convolve every sum
before they pass it on, as EfficientDet's paper writes its FPN; the classic one is this module.
"""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.layers.convolution import Conv
from effdet_jax.layers.initializers import glorot_uniform
from effdet_jax.ops.resample import upsample

Features = dict[int, Float[Array, "B _ _ _"]]


class FPN(nn.Module):
    """Backbone features → one feature of `width` channels per level.

        C5 ─1×1─► ● ─────3×3─► P5 ─3×3/2─► P6 ─ReLU, 3×3/2─► P7
                  │ ×2
        C4 ─1×1─► + ─────3×3─► P4              ● is passed down as it is,
                  │ ×2                         + adds and passes on the sum
        C3 ─1×1─► + ─────3×3─► P3

    Attributes:
      width: channels.
      min_level, max_level: finest and coarsest level; levels above the backbone's last are strided
        convolutions.
      norm: whether every output is batch-normalised, as by the implementation that EfficientDet's
        paper compares with (google/automl's). What goes on to P6 and P7 is not.
      extra_from: 'output', P6 is computed from P5 (google/automl, torchvision), or 'backbone', from
        C5 (RetinaNet's paper, detectron2).
      padding: of the strided convolutions, one of `ops.resample.PADDINGS`.
      dtype: of the computation.
    """

    width: int
    min_level: int = 3
    max_level: int = 7
    norm: bool = True
    extra_from: str = "output"
    padding: str = "symmetric"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """{3, 4, 5: [B, H, W, C_level]} → {min_level … max_level: [B, H, W, width]}."""
        features = {level: x for level, x in features.items() if level >= self.min_level}
        conv = functools.partial(
            Conv,
            self.width,
            use_bias=True,
            kernel_init=glorot_uniform,
            padding=self.padding,
            dtype=self.dtype,
        )
        merged: Features = {}
        for level in sorted(features, reverse=True):
            merged[level] = conv(name=f"P{level}_lateral")(features[level])
            if level + 1 in merged:
                merged[level] += upsample(merged[level + 1], merged[level].shape[1:3])
        outputs = {
            level: conv(kernel_size=3, name=f"P{level}_conv")(merged[level])
            for level in sorted(merged)
        }
        last = max(outputs)
        x = outputs[last] if self.extra_from == "output" else features[last]
        for level in range(last + 1, self.max_level + 1):
            x = nn.relu(x) if level > last + 1 else x
            x = outputs[level] = conv(kernel_size=3, stride=2, name=f"P{level}_conv")(x)
        if self.norm:  # Not folded into the convolutions: P6 and P7 need them as they are.
            for level, x in outputs.items():
                outputs[level] = BatchNorm(name=f"P{level}_bn")(x, train=train)
        return outputs
