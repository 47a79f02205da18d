"""One training step: a pure function of state and batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from effdet_jax.losses import detection_loss
from effdet_jax.model.detector import Detector, network_input
from effdet_jax.targets import assign, spec_anchors
from effdet_jax.training.optimizer import ema_decay
from effdet_jax.training.sharding import replicated, split_batch
from effdet_jax.training.state import TrainState

Step = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: Detector,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    mesh: Mesh,
    *,
    seed: int = 0,
    ema: float = 0.9998,
    loss_options: Mapping[str, Any] | None = None,
) -> Step:
    """The jitted step: batches split over the mesh, state replicated and donated.

    Args:
      model: the detector.
      optimizer: from `optimizer.make_optimizer`.
      learning_rate: step → rate.
      seed: of drop-connect's random numbers.
      ema: decay of the moving averages, 0 for none.
      loss_options: keywords of `losses.detection_loss`.
    """
    anchors = spec_anchors(model.spec)

    def step(state, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        images = network_input(model, batch)
        targets = assign(anchors, batch["boxes"], batch["labels"], batch["valid"])

        def loss_of(params):
            outputs, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"drop_connect": key},
            )
            loss, parts = detection_loss(outputs, targets, anchors, **(loss_options or {}))
            return loss, (parts, updated["batch_stats"])

        grads, (parts, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
        rate = jnp.asarray(learning_rate(state.step), jnp.float32)
        new_state, grad_norm = apply_gradients(state, grads, batch_stats, optimizer, rate, ema)
        finite = jnp.isfinite(parts["loss/total"]) & jnp.isfinite(grad_norm)
        metrics = {
            **parts,
            "optim/learning_rate": rate,
            "optim/grad_norm": grad_norm,
            "data/num_positives": jnp.sum(targets.num_positives),
            "finite": finite,
        }
        return keep_if(finite, new_state, state), metrics

    return jax.jit(
        step,
        in_shardings=(replicated(mesh), split_batch(mesh)),
        out_shardings=replicated(mesh),
        donate_argnums=0,
    )


def apply_gradients(
    state: TrainState,
    grads: Any,
    batch_stats: Any,
    optimizer: optax.GradientTransformation,
    rate: jax.Array,
    ema: float,
) -> tuple[TrainState, jax.Array]:
    """The state one step on, and the norm of all gradients before decay and clipping."""
    directions, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda direction: -rate * direction, directions)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    average = {"params": params, "batch_stats": batch_stats}
    if ema:
        average = optax.incremental_update(average, state.ema, 1.0 - ema_decay(step, ema))
    state = TrainState(step, params, batch_stats, opt_state, average)
    return state, optax.tree.norm(grads)


def keep_if(finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """`new`, or `old` with the step counted where a loss or gradient was no finite number."""
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    return kept.replace(step=new.step)
