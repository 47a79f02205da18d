"""The segmentation head: transposed convolutions from the coarsest level up (google/automl's)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.layers.convolution import TransposedConv


class MaskHead(nn.Module):
    """Pyramid features → class logits of cells half as wide as the finest level's.

        P7 ─ up ─⊕─ up ─⊕─ up ─⊕─ up ─⊕─ predict → stride 4
                 P6      P5      P4      P3

    'up' doubles the size: transposed convolution, BN, activation; ⊕ appends the channels of the next
    finer level. From the second on an 'up' so sees twice the width.

    Attributes:
      outputs: values per cell.
      width: channels of every 'up'.
      size: (height, width) of the result; at most twice that of the finest level.
      act: name of the activation.
      dtype: of the computation.
      remat: whether the backward pass computes 'up' again.
    """

    outputs: int
    width: int
    size: tuple[int, int]
    act: str = "swish"
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, features: dict[int, Float[Array, "B _ _ _"]], *, train: bool = False
    ) -> Float[Array, "B h w outputs"]:
        """{level: [B, H, W, width]} → [B, *size, outputs]."""

        def up(conv: nn.Module, norm: nn.Module, x: Any) -> Any:
            return norm(conv(x), train=train)

        up = nn.remat(up) if self.remat else up
        coarsest, *finer = sorted(features, reverse=True)
        x = features[coarsest]
        for level in finer:
            conv = TransposedConv(self.width, dtype=self.dtype, name=f"up_P{level}")
            norm = BatchNorm(self.act, after=f"up_P{level}", name=f"bn_P{level}")
            beside = features[level]
            # Sizes are rounded up at every level: twice a coarser one may be a row too many.
            x = up(conv, norm, x)[:, : beside.shape[1], : beside.shape[2]]
            x = jnp.concatenate([x, beside], axis=-1)
        x = TransposedConv(self.outputs, use_bias=True, dtype=self.dtype, name="predict")(x)
        return x[:, : self.size[0], : self.size[1]]
