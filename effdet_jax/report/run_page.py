"""A run on one page: what was learned, where it fails, how it got there."""

import os
import time
import traceback
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from PIL import Image

from effdet_jax.data.example import Source
from effdet_jax.evaluation.evaluation import Evaluation
from effdet_jax.inference.render import grid
from effdet_jax.report import sections
from effdet_jax.report.data_page import split_section
from effdet_jax.report.examples import KINDS, Pair, pairs
from effdet_jax.report.history import AP, AP50, LOSS, SPEED, VAL_LOSS, History
from effdet_jax.report.page import card, charts_hint, escape, number, picture, thumbnail, write_page
from effdet_jax.run.monitor import warn
from effdet_jax.run.pictures import TRAIN_BATCH
from effdet_jax.run.recipes import Difference
from effdet_jax.run.workdir import METRICS

_BATCH_SIDE = 1000  # Of the picture of the training batch, pixels.


class RunPage:
    """Writes the page of a run anew at each evaluation.

    It is about boxes: where an evaluation measures none, nothing is written. A page that can't be
    written never ends a training: a warning says what went wrong.

    Args:
      path: of the page.
      title: of the run.
      source: what is evaluated on.
      sources: by split, of the data doctor.
      recipe: the name of what the config is compared with.
      differences: from it.
      run: workdir with the numbers and the picture of the training; '' where there is none.
      total_steps: of the run; 0 where that isn't known.
    """

    def __init__(
        self,
        path: str,
        title: str,
        source: Source,
        sources: Mapping[str, Source],
        recipe: str,
        differences: Sequence[Difference],
        *,
        run: str = "",
        total_steps: int = 0,
    ):
        self.path, self._title, self._source, self._sources = path, title, source, sources
        self._recipe, self._differences = recipe, differences
        self._metrics = os.path.join(run, METRICS)
        self._batch = os.path.join(run, f"{TRAIN_BATCH}.jpg")
        self._total_steps = total_steps
        self._static: dict[str, str] = {}

    def write(self, step: int, result: Evaluation) -> dict[str, np.ndarray]:
        """Writes the page after step `step`; says so on stderr if it can't.

        Of several processes the first one writes.

        Args:
          step: steps done; 0 where that isn't known.
          result: on `source`.

        Returns:
          {'best': [H, W, 3] uint8, 'worst': …, 'random': …}, the pairs of images that it shows; none
          if it failed before they were drawn.
        """
        if jax.process_index() or result.analysis is None:
            return {}
        shown: list[Pair] = []
        try:
            shown += pairs(self._source, result.results, result.analysis)
            self._write(step, result, shown)
        except Exception as error:  # noqa: BLE001 (whatever it is, training goes on)
            where = traceback.extract_tb(error.__traceback__)[-1]
            warn(
                f"warning: the report '{self.path}' couldn't be written after step {step}: "
                f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}, line "
                f"{where.lineno})"
            )
        return {
            kind: grid([np.concatenate([pair.truth, pair.detections], axis=1) for pair in ones])
            for kind in KINDS
            if (ones := [pair for pair in shown if pair.kind == kind])
        }

    def _write(self, step: int, result: Evaluation, shown: Sequence[Pair]):
        history, analysis = History(self._metrics), result.analysis
        self._static = self._static or self._write_static()
        head = self._head(step, history, result)
        write_page(
            self.path,
            self._title,
            head,
            {
                "Training": sections.training(history),
                "Classes": sections.classes(analysis),
                "Curves": sections.curves(analysis),
                "Confusion": sections.confusion(analysis),
                "Sizes": sections.sizes(analysis),
                "Images": sections.images(shown, analysis.threshold),
                "Training batch": self._batch_section(),
                "Speed": sections.speed(history),
                **self._static,
            },
        )

    def _head(self, step: int, history: History, result: Evaluation) -> str:
        of = f" of {self._total_steps:,}" if self._total_steps else ""
        epoch = history.last("epoch")
        parts = [f"step {step:,}{of}" if step else "", f"epoch {epoch:.1f}" if epoch else ""]
        parts += [
            f"{result.metrics.num_images:,} images evaluated",
            time.strftime("%Y-%m-%d %H:%M"),
        ]
        scalars, analysis = result.scalars(), result.analysis
        tiles = {
            "AP": number(scalars.get(AP)),
            "AP at IoU 0.5": number(scalars.get(AP50)),
            f"best F1, at score {analysis.threshold:.2f}": number(analysis.best_f1),
            "validation loss": number(scalars.get(VAL_LOSS)),
            "training loss": number(history.last(LOSS)),
            "images/s": number(history.last(SPEED), 1),
        }
        shown = {name: text for name, text in tiles.items() if text != "–"}
        line = f'<p class="quiet">{escape(" · ".join(filter(None, parts)))}</p>'
        return line + charts_hint() + sections.tiles(shown)

    def _batch_section(self) -> str:
        if not os.path.exists(self._batch):
            return ""
        small, _ = thumbnail(np.asarray(Image.open(self._batch).convert("RGB")), _BATCH_SIDE)
        return card(
            "The first training images, augmented",
            picture(small, "training batch"),
            "As the network sees them. Boxes that don't fit their objects here are wrong in the data, "
            "or made so by an augmentation.",
        )

    def _write_static(self) -> dict[str, str]:
        """The sections that don't change during a run."""
        data = "".join(
            card(split, split_section(source.report, source, thumbnails=6))
            for split, source in self._sources.items()
        )
        return {"Data": data, "Settings": sections.settings(self._recipe, self._differences)}
