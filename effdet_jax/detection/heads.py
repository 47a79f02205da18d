"""Class and box heads: convolutions shared by all levels, batch normalisation per level."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.layers.convolution import create_conv, kernel_path
from effdet_jax.layers.initializers import KernelInit, truncated_lecun_normal
from effdet_jax.ops.normalization import activation

# With this bias every class starts at probability 0.01 (arXiv:1708.02002, section 4.1).
CLASS_BIAS = -math.log((1 - 0.01) / 0.01)


@struct.dataclass
class Outputs:
    """Raw predictions per level. (Fields are typed loosely: jax rebuilds trees of shapes, too.)

    Attributes:
      class_logits: {level: [B, H, W, A, K]}, before the sigmoid.
      box_deltas: {level: [B, H, W, A, 4]}, see `ops.boxes.encode`.
    """

    class_logits: dict[int, Any]
    box_deltas: dict[int, Any]


class Head(nn.Module):
    """`depth` × (convolution, BN, activation), then a convolution that predicts.

    Attributes:
      outputs: values per anchor: K for the class head, 4 for the box head.
      anchors: A, anchors per cell.
      width: channels.
      depth: convolutions before the prediction.
      bias: initial bias of the prediction.
      act: name of the activation.
      conv: kind of the convolutions, see `layers.convolution.create_conv`.
      redundant_bias: whether convolutions before a BN have a bias, as the released weights do.
      norm: whether convolutions but the last are followed by a BN; they have a bias if not.
      kernel_init: initialiser of all kernels.
      dtype: of the computation.
      remat: computes the inside of every repeat again in the backward pass.
    """

    outputs: int
    anchors: int
    width: int
    depth: int
    bias: float = 0.0
    act: str = "swish"
    conv: str = "separable"
    redundant_bias: bool = True
    norm: bool = True
    kernel_init: KernelInit = truncated_lecun_normal
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, features: dict[int, Float[Array, "B _ _ _"]], *, train: bool = False
    ) -> dict[int, Float[Array, "B _ _ A outputs"]]:
        """{level: [B, H, W, width]} → {level: [B, H, W, A, outputs]}."""
        shared = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        use_bias = self.redundant_bias or not self.norm
        names = [f"conv_{repeat}" for repeat in range(self.depth)]
        convs = [
            create_conv(self.conv, self.width, use_bias=use_bias, name=name, **shared)
            for name in names
        ]
        predict = create_conv(
            self.conv,
            self.anchors * self.outputs,
            use_bias=True,
            initial_bias=self.bias,
            name="predict",
            **shared,
        )

        def block(norm, conv, x):  # Activated values aren't kept: see `BatchNorm`.
            if norm is None:
                return conv(activation(self.act)(x))
            return norm(x, train=train, then=conv)

        block = nn.remat(block) if self.remat else block
        predictions = {}
        for level, x in features.items():
            x = (*convs, predict)[0](x)
            for repeat, name in enumerate(names):
                norm = self._norm(name, f"bn_{repeat}_P{level}") if self.norm else None
                x = block(norm, (*convs, predict)[repeat + 1], x)
            predictions[level] = x.reshape(*x.shape[:3], self.anchors, self.outputs)
        return predictions

    def _norm(self, conv: str, name: str) -> BatchNorm:
        return BatchNorm(self.act, after=kernel_path(self.conv, conv), shared=True, name=name)
