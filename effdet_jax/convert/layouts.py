"""Rules of single layers: a convolution and a batch normalisation as PyTorch and TensorFlow store them.

`path` is the layer's, 'backbone/stem_conv'; `source` what its tensors' names begin with there.
PyTorch's kernels are OIHW, TensorFlow's HWIO with depthwise ones [k, k, C, 1].
"""

from collections.abc import Iterator, Mapping

from effdet_jax.convert.rules import Rule

PYTORCH_BATCH_NORM = {
    "params/{}/scale": "weight",
    "params/{}/bias": "bias",
    "batch_stats/{}/mean": "running_mean",
    "batch_stats/{}/var": "running_var",
}
TENSORFLOW_BATCH_NORM = {
    "params/{}/scale": "gamma",
    "params/{}/bias": "beta",
    "batch_stats/{}/mean": "moving_mean",
    "batch_stats/{}/var": "moving_variance",
}


def pytorch_conv(path: str, source: str, *, bias: bool = False) -> Iterator[Rule]:
    """A convolution, depthwise or not."""
    # OIHW → HWIO; a depthwise [C, 1, k, k] becomes [k, k, 1, C] by the same transpose.
    yield Rule(f"params/{path}/kernel", (f"{source}.weight",), axes=(2, 3, 1, 0))
    if bias:
        yield Rule(f"params/{path}/bias", (f"{source}.bias",))


def pytorch_batch_norm(path: str, source: str) -> Iterator[Rule]:
    """A batch normalisation, less PyTorch's `num_batches_tracked`."""
    return _batch_norm(PYTORCH_BATCH_NORM, path, f"{source}.")


def tensorflow_conv(path: str, source: str, *, bias: bool = False) -> Iterator[Rule]:
    """A convolution that isn't depthwise."""
    yield Rule(f"params/{path}/kernel", (f"{source}/kernel",))
    if bias:
        yield Rule(f"params/{path}/bias", (f"{source}/bias",))


def pytorch_dense(path: str, source: str) -> Iterator[Rule]:
    """A dense layer with a bias: [out, in] → [in, out]."""
    yield Rule(f"params/{path}/kernel", (f"{source}.weight",), axes=(1, 0))
    yield Rule(f"params/{path}/bias", (f"{source}.bias",))


def tensorflow_depthwise(path: str, source: str) -> Rule:
    """A depthwise convolution: [k, k, C, 1] → [k, k, 1, C]."""
    return Rule(f"params/{path}/kernel", (f"{source}/depthwise_kernel",), axes=(0, 1, 3, 2))


def tensorflow_batch_norm(path: str, source: str) -> Iterator[Rule]:
    """A batch normalisation."""
    return _batch_norm(TENSORFLOW_BATCH_NORM, path, f"{source}/")


def _batch_norm(names: Mapping[str, str], path: str, prefix: str) -> Iterator[Rule]:
    for variable, name in names.items():
        yield Rule(variable.format(path), (f"{prefix}{name}",))
