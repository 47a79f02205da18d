"""When things happen in a run, in steps."""

import dataclasses
import math

from effdet_jax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen. Batches run on over the ends of epochs, so an epoch is no whole number.

    Attributes:
      steps_per_epoch: examples / batch size.
      total_steps: of the run.
      warmup_steps: of the learning rate.
      drop_steps: of the stepwise schedule.
      eval_every: steps between evaluations, 0 for one at the end only.
      save_every: steps between checkpoints.
      log_every: steps between rows of metrics.
    """

    steps_per_epoch: float
    total_steps: int
    warmup_steps: int
    drop_steps: tuple[int, ...]
    eval_every: int
    save_every: int
    log_every: int

    @classmethod
    def from_epochs(
        cls,
        num_examples: int,
        batch_size: int,
        *,
        num_epochs: float,
        num_steps: int = 0,
        warmup_epochs: float = 1.0,
        drop_epochs: tuple[float, ...] = (),
        eval_every_epochs: float = 0.0,
        save_every_epochs: float = 1.0,
        log_every_steps: int = 50,
    ) -> "Schedule":
        """The schedule of a run over `num_examples` examples, from durations in epochs.

        `num_steps`, if not 0, goes before `num_epochs`.

        Raises:
          ConfigError: nothing would happen at all.
        """
        per_epoch = num_examples / batch_size
        if not num_steps and num_epochs * per_epoch < 1:
            raise ConfigError(
                f"{num_epochs} epochs of {num_examples} images in batches of {batch_size} are zero "
                "steps; train longer or with smaller batches"
            )
        return cls(
            steps_per_epoch=per_epoch,
            total_steps=num_steps or int(num_epochs * per_epoch),
            warmup_steps=int(warmup_epochs * per_epoch),
            drop_steps=tuple(int(epochs * per_epoch) for epochs in drop_epochs),
            eval_every=math.ceil(eval_every_epochs * per_epoch),
            save_every=max(1, math.ceil(save_every_epochs * per_epoch)),
            log_every=log_every_steps,
        )

    def logs_after(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.total_steps

    def evaluates_after(self, step: int) -> bool:
        due = self.eval_every > 0 and step % self.eval_every == 0
        return due or step == self.total_steps

    def saves_after(self, step: int) -> bool:
        return step % self.save_every == 0 or self.evaluates_after(step)
