"""The state a run begins with: its own last checkpoint, given weights, or from scratch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax
from flax import traverse_util
from jax.sharding import Mesh

from effdet_jax.checkpoint import (
    CheckpointError,
    Checkpoints,
    Metadata,
    merge_variables,
)
from effdet_jax.classes import ClassNames
from effdet_jax.detection.objective import create_objective
from effdet_jax.inference.load import read_initial_variables
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import initial_variables
from effdet_jax.training.state import TrainState, abstract_state, create_state


def create_initial_state(
    model: Detector, optimizer: optax.GradientTransformation, mesh: Mesh, *, seed: int, init: str
) -> TrainState:
    """A new run's state, from scratch or from the weights at `init`; says what became of those.

    Raises:
      CheckpointError, ConversionError: `init` can't be used.
    """
    variables = initial_variables(model, seed)
    if init:
        given, class_names = read_initial_variables(init, model)
        given = keep_class_rows(variables, given, model, class_names)
        variables, report = merge_variables(variables, given)
        print(f"init       {init}: " + "\n           ".join(report.lines()), flush=True)
    return create_state(variables, optimizer, mesh)


def keep_class_rows(
    fresh: Mapping[str, Any],
    given: Mapping[str, Any],
    model: Detector,
    class_names: ClassNames | None,
) -> Mapping[str, Any]:
    """`given` with its class head's rows in the model's order, matched by name in any case.

    Rows of classes that only the model has are the `fresh` ones. Says which were kept. Where the
    classes of either side aren't known, or both are the same, `given` is returned as it is.

    Args:
      class_names: of `given`.
    """
    head = ("params", *create_objective(model.spec).class_layer)
    flat, fresh_flat = (traverse_util.flatten_dict(dict(tree)) for tree in (given, fresh))
    paths = [(*head, "kernel"), (*head, "bias")]
    known = class_names and model.class_names and class_names.names != model.class_names.names
    if not known or any(path not in flat or path not in fresh_flat for path in paths):
        return given
    index_of = {name.casefold(): index for index, name in enumerate(class_names.names)}
    rows = [index_of.get(name.casefold()) for name in model.class_names.names]
    for path in paths:
        # The last axis is anchors × classes.
        new = np.array(fresh_flat[path]).reshape(*fresh_flat[path].shape[:-1], -1, len(rows))
        old = np.asarray(flat[path]).reshape(*flat[path].shape[:-1], -1, len(class_names))
        if old.shape[:-1] != new.shape[:-1]:
            return given  # Other anchors, or another width.
        for row, index in enumerate(rows):
            if index is not None:
                new[..., row] = old[..., index]
        flat[path] = new.reshape(fresh_flat[path].shape)
    kept, started = (
        [name for name, row in zip(model.class_names.names, rows) if (row is None) == new]
        for new in (False, True)
    )
    print(f"init       class rows kept: {_listed(kept)}; new: {_listed(started)}")
    return traverse_util.unflatten_dict(flat)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none"


def load_state(
    model: Detector,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    checkpoints: Checkpoints,
    metadata: Metadata,
) -> TrainState:
    """The state in the newest of `checkpoints`; says from which step, and what was reconfigured.

    Args:
      metadata: of this run.

    Raises:
      CheckpointError: the checkpoint is of another model, class list or optimizer; the message
        names them.
    """
    saved = checkpoints.metadata()
    if different := metadata.difference(saved):
        raise CheckpointError(
            f"'{checkpoints.folder}' holds another run (this one against that one): {different}. "
            "Choose another --workdir, or start from its weights in a new one: "
            f"--config.init={checkpoints.workdir}"
        )
    changed = _changes(saved.config, metadata.config)
    print(f"resuming   from step {saved.step}" + (f"; changed: {changed}" if changed else ""))
    try:
        loaded = checkpoints.restore(**checkpoint_parts(abstract_state(model, optimizer, mesh)))
    except CheckpointError as error:
        optim = ", ".join(part for part in changed.split(", ") if part.startswith("optim."))
        if not optim:
            raise
        raise CheckpointError(
            f"the optimizer's state in '{checkpoints.folder}' doesn't fit another optimizer "
            f"({optim}). Go on as before, or start from its weights in a new --workdir=NEW: "
            f"--config.init={checkpoints.workdir}"
        ) from error
    return TrainState(ema=loaded["ema"], **loaded["train"])


def checkpoint_parts(state: TrainState) -> dict[str, Any]:
    """A state as the parts of a checkpoint: the moving averages, and what training alone needs."""
    names = ("step", "params", "batch_stats", "opt_state")
    return {"train": {name: getattr(state, name) for name in names}, "ema": state.ema}


def _changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """'optim.learning_rate 0.08 → 0.02, …'."""
    before, after = (traverse_util.flatten_dict(dict(tree), sep=".") for tree in (saved, current))
    return ", ".join(
        f"{key} {before.get(key)} → {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    )
