"""What of a detector doesn't learn: modules that run as in inference and keep all their variables."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
from flax import traverse_util

from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import Path, describe


def frozen_modules(
    model: Detector, patterns: Sequence[str] = (), norms: Sequence[str] = ()
) -> frozenset[Path]:
    """Paths of the modules that don't learn.

    Args:
      patterns: regular expressions for module paths, such as 'backbone' or 'pyramid/cell_0'; what is
        below a module that matches is frozen with it.
      norms: likewise, of modules whose batch normalisations alone are frozen, statistics and affine
        parameters; '' is the whole model.

    Raises:
      ValueError: a pattern matches nothing; the message lists the parts.
    """
    description = describe(model)
    with_statistics = {
        path[:-1] for path in traverse_util.flatten_dict(description.shapes["batch_stats"])
    }
    frozen: set[Path] = set()
    for wanted, candidates in ((patterns, set(description.modules)), (norms, with_statistics)):
        for pattern in wanted:
            found = {path for path in candidates if _is_below(path, pattern)}
            if not found:
                parts = sorted({path[0] for path in description.modules if path})
                raise ValueError(
                    f"'{pattern}' matches no module of the model; its parts are {', '.join(parts)}, "
                    "and a regular expression for what is below them is 'backbone/block_[0-3]'"
                )
            frozen |= found
    return frozenset(frozen)


def _is_below(path: Path, pattern: str) -> bool:
    """Whether the pattern matches the path of a module or of one that it is in."""
    return any(re.fullmatch(pattern, "/".join(path[:end])) for end in range(len(path) + 1))


def frozen_parameters(model: Detector, modules: frozenset[Path]) -> Any:
    """A tree like `params`, True for the parameters of these modules."""
    flat = traverse_util.flatten_dict(describe(model).shapes["params"])
    return traverse_util.unflatten_dict({path: path[:-1] in modules for path in flat})


def run_as_in_inference(modules: frozenset[Path]) -> Callable[..., Any]:
    """For `nn.intercept_methods`: these modules run with `train=False`, and so do those in them."""

    def intercept(call, args, kwargs, context: nn.module.InterceptorContext) -> Any:
        if "train" in kwargs and context.module.path in modules:
            kwargs = {**kwargs, "train": False}
        return call(*args, **kwargs)

    return intercept
