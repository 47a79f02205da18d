"""Class and box heads: convolutions shared by all levels, batch normalisation per level."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.layers.convolution import SeparableConv, truncated_lecun_normal

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
    """`depth` × (separable conv, BN, activation), then a separable conv that predicts.

    Attributes:
      outputs: values per anchor: K for the class head, 4 for the box head.
      anchors: A, anchors per cell.
      width: channels.
      depth: convolutions before the prediction.
      bias: initial bias of the prediction.
      act: name of the activation.
      redundant_bias: whether convolutions before a BN have a bias, as the released weights do.
      dtype: of the computation.
      remat: computes the inside of every repeat again in the backward pass.
    """

    outputs: int
    anchors: int
    width: int
    depth: int
    bias: float = 0.0
    act: str = "swish"
    redundant_bias: bool = True
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, features: dict[int, Float[Array, "B _ _ _"]], *, train: bool = False
    ) -> dict[int, Float[Array, "B _ _ A outputs"]]:
        """{level: [B, H, W, width]} → {level: [B, H, W, A, outputs]}."""
        convs = [
            SeparableConv(
                self.width,
                self.redundant_bias,
                kernel_init=truncated_lecun_normal,
                dtype=self.dtype,
                name=f"conv_{repeat}",
            )
            for repeat in range(self.depth)
        ]
        predict = SeparableConv(
            self.anchors * self.outputs,
            kernel_init=truncated_lecun_normal,
            initial_bias=self.bias,
            dtype=self.dtype,
            name="predict",
        )

        def block(conv, bn, x):
            return bn(conv(x), train=train, deferred=True)

        block = nn.remat(block) if self.remat else block
        predictions = {}
        for level, x in features.items():
            for repeat, conv in enumerate(convs):
                x = block(conv, BatchNorm(self.act, name=f"bn_{repeat}_P{level}"), x)
            x = predict(x)
            predictions[level] = x.reshape(*x.shape[:3], self.anchors, self.outputs)
        return predictions
