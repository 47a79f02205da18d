"""The feature pyramid: extra levels from the backbone's last feature, then repeated cells."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.layers.convolution import Conv, call, create_conv, kernel_path
from effdet_jax.layers.initializers import glorot_uniform
from effdet_jax.model.graphs import PYRAMIDS, Node
from effdet_jax.model.merge import MERGES
from effdet_jax.ops.normalization import activation
from effdet_jax.ops.resample import resample

Features = dict[int, Float[Array, "B _ _ _"]]

# Where a backbone level gets the pyramid's width: in every node that takes it (the released
# EfficientDets), or once per level, and levels above the backbone's last are pooled from that.
LATERALS = ("node", "level")

# By how much the windows of a max-pool overlap: 3×3 at stride 2 (EfficientDet), or 2×2 (NAS-FPN).
POOLINGS = {"overlapping": 1, "disjoint": 0}


@dataclasses.dataclass(frozen=True)
class NodeSettings:
    """What all nodes of a pyramid have in common.

    Attributes:
      width: channels.
      fusion: one of `merge.MERGES`, where a node doesn't name its own.
      act: name of the activation.
      conv: kind of a node's convolution, see `layers.convolution.create_conv`.
      redundant_bias: whether convolutions before a BN have a bias, as the released weights do.
      padding: of the poolings, one of `ops.resample.PADDINGS`.
      pooling: one of `POOLINGS`.
      dtype: of the computation.
    """

    width: int
    fusion: str = "fast"
    act: str = "swish"
    conv: str = "separable"
    redundant_bias: bool = True
    padding: str = "same"
    pooling: str = "overlapping"
    dtype: DTypeLike = jnp.float32


class Resample(nn.Module):
    """Brings a feature to the pyramid's width (1×1 conv + BN, only if it differs), then to a size.

    The convolution comes before the pooling, as the released weights have it.
    """

    settings: NodeSettings

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], size: tuple[int, int], *, train: bool
    ) -> Float[Array, "B h w D"]:
        settings = self.settings
        if x.shape[-1] != settings.width:
            conv = Conv(
                settings.width,
                use_bias=settings.redundant_bias,
                kernel_init=glorot_uniform,
                dtype=settings.dtype,
                name="conv",
            )
            x = BatchNorm(after="conv", name="bn")(conv(x), train=train)
        return resample(x, size, settings.padding, POOLINGS[settings.pooling])


class FusionNode(nn.Module):
    """Resample each input, merge, activate, 3×3 convolution, BN; nothing after the BN."""

    node: Node
    size: tuple[int, int]
    settings: NodeSettings

    @nn.compact
    def __call__(
        self, inputs: list[Float[Array, "B _ _ _"]], *, train: bool
    ) -> Float[Array, "B h w C"]:
        settings = self.settings
        inputs = [
            Resample(settings, name=name)(x, self.size, train=train)
            for name, x in zip(self.node.inputs, inputs)
        ]
        merge = MERGES[self.node.merge or settings.fusion]
        x = activation(settings.act)(merge(name="fusion")(inputs))
        x = create_conv(
            settings.conv,
            settings.width,
            use_bias=settings.redundant_bias,
            kernel_init=glorot_uniform,
            dtype=settings.dtype,
            name="conv",
        )(x)
        return BatchNorm(after=kernel_path(settings.conv, "conv"), name="bn")(x, train=train)


class PyramidCell(nn.Module):
    """One pass over a node list: {level: feature} → {level: feature}, sizes kept."""

    nodes: tuple[Node, ...]
    settings: NodeSettings
    remat: bool = False

    @nn.compact
    def __call__(self, features: Features, *, train: bool) -> Features:
        sizes = {level: x.shape[1:3] for level, x in features.items()}
        named = {f"P{level}_in": x for level, x in features.items()}
        outputs = {}
        for node in self.nodes:
            fuse = FusionNode(node, sizes[node.level], self.settings, name=node.name)
            inputs = [named[name] for name in node.inputs]
            named[node.name] = call(fuse, inputs, train=train, remat=self.remat)
            outputs[node.level] = named[node.name]  # The last node of a level is its output.
        return {level: outputs[level] for level in sorted(outputs)}


class Pyramid(nn.Module):
    """Backbone features → one feature of `settings.width` channels per level.

    Attributes:
      settings: of all nodes.
      cells: how many times the graph is repeated.
      graph: one of `graphs.PYRAMIDS`.
      min_level, max_level: levels above the backbone's last are pooled from it.
      laterals: one of `LATERALS`.
      remat: computes the inside of every node again in the backward pass.
    """

    settings: NodeSettings
    cells: int
    graph: str = "bifpn"
    min_level: int = 3
    max_level: int = 7
    laterals: str = "node"
    remat: bool = False

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """{3, 4, 5: [B, H, W, C_level]} → {min_level … max_level: [B, H, W, width]}."""
        levels = range(self.min_level, self.max_level + 1)
        features = {level: features[level] for level in levels if level in features}
        if self.laterals == "level":
            for level, x in features.items():
                lateral = Resample(self.settings, name=f"P{level}")
                features[level] = lateral(x, x.shape[1:3], train=train)
        for level in levels:
            if level not in features:
                # P6 of raw features is 1×1 conv + BN, then max-pool; P7 and up are pooled only.
                below = features[level - 1]
                size = tuple((side + 1) // 2 for side in below.shape[1:3])
                extra = Resample(self.settings, name=f"P{level}")
                features[level] = extra(below, size, train=train)
        nodes = PYRAMIDS[self.graph](self.min_level, self.max_level)
        for number in range(self.cells):
            cell = PyramidCell(nodes, self.settings, self.remat, name=f"cell_{number}")
            features = cell(features, train=train)
        return features
