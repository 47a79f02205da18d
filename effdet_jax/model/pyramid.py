"""The feature pyramid: extra levels from the backbone's last feature, then repeated BiFPN cells."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import BatchNorm, activation
from effdet_jax.layers.convolution import Conv, SeparableConv, glorot_uniform, run
from effdet_jax.model.graphs import Node, bifpn
from effdet_jax.model.merge import Fusion
from effdet_jax.ops.resample import resample

Features = dict[int, Float[Array, "B _ _ _"]]


class Resample(nn.Module):
    """Brings a feature to the pyramid's width (1×1 conv + BN, only if it differs), then to a size.

    The convolution comes before the pooling, and every consumer of a backbone level has its own
    (both as the released weights have it).
    """

    width: int
    redundant_bias: bool
    padding: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], size: tuple[int, int], *, train: bool
    ) -> Float[Array, "B h w D"]:
        if x.shape[-1] != self.width:
            x = Conv(
                self.width,
                use_bias=self.redundant_bias,
                kernel_init=glorot_uniform,
                dtype=self.dtype,
                name="conv",
            )(x)
            x = BatchNorm(name="bn")(x, train=train)
        return resample(x, size, self.padding)


class FusionNode(nn.Module):
    """Resample each input, fuse, activate, 3×3 separable convolution, BN; nothing after the BN."""

    node: Node
    size: tuple[int, int]
    width: int
    fusion: str
    act: str
    redundant_bias: bool
    padding: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, inputs: list[Float[Array, "B _ _ _"]], *, train: bool
    ) -> Float[Array, "B h w C"]:
        inputs = [
            Resample(self.width, self.redundant_bias, self.padding, self.dtype, name=name)(
                x, self.size, train=train
            )
            for name, x in zip(self.node.inputs, inputs)
        ]
        x = activation(self.act)(Fusion(self.fusion, name="fusion")(inputs))
        x = SeparableConv(self.width, self.redundant_bias, dtype=self.dtype, name="conv")(x)
        return BatchNorm(name="bn")(x, train=train)


class PyramidCell(nn.Module):
    """One pass over a node list: {level: feature} → {level: feature}, sizes kept."""

    nodes: tuple[Node, ...]
    width: int
    fusion: str
    act: str
    redundant_bias: bool
    padding: str
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Features:
        sizes = {level: x.shape[1:3] for level, x in features.items()}
        named = {f"P{level}_in": x for level, x in features.items()}
        outputs = {}
        for node in self.nodes:
            fuse = FusionNode(
                node,
                sizes[node.level],
                self.width,
                self.fusion,
                self.act,
                self.redundant_bias,
                self.padding,
                self.dtype,
                name=node.name,
            )
            inputs = [named[name] for name in node.inputs]
            fused = run(fuse, inputs, train=train, remat=self.remat)
            named[node.name] = fused
            outputs[node.level] = fused  # The last node of a level is its output.
        return {level: outputs[level] for level in sorted(outputs)}


class Pyramid(nn.Module):
    """Backbone features → one feature of `width` channels per level.

    Attributes:
      width: channels.
      cells: how many times the graph is repeated.
      min_level, max_level: levels above the backbone's last are pooled from it.
      fusion: one of `variants.FUSIONS`.
      act: name of the activation.
      redundant_bias: whether convolutions before a BN have a bias, as the released weights do.
      padding: of the poolings, one of `ops.resample.PADDINGS`.
      dtype: of the computation.
      remat: computes the inside of every node again in the backward pass.
    """

    width: int
    cells: int
    min_level: int = 3
    max_level: int = 7
    fusion: str = "fast"
    act: str = "swish"
    redundant_bias: bool = True
    padding: str = "same"
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """{3, 4, 5: [B, H, W, C_level]} → {min_level … max_level: [B, H, W, width]}."""
        levels = range(self.min_level, self.max_level + 1)
        features = {level: features[level] for level in levels if level in features}
        for level in levels:
            if level not in features:
                # P6 is 1×1 conv + BN, then max-pool; P7 and up are pooled only.
                below = features[level - 1]
                size = tuple((side + 1) // 2 for side in below.shape[1:3])
                extra = Resample(
                    self.width, self.redundant_bias, self.padding, self.dtype, name=f"P{level}"
                )
                features[level] = extra(below, size, train=train)
        nodes = bifpn(self.min_level, self.max_level)
        for cell in range(self.cells):
            run_cell = PyramidCell(
                nodes,
                self.width,
                self.fusion,
                self.act,
                self.redundant_bias,
                self.padding,
                self.dtype,
                self.remat,
                name=f"cell_{cell}",
            )
            features = run_cell(features, train=train)
        return features
