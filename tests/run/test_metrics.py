import json

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from effdet_jax.run.metrics import MetricWriter
from effdet_jax.run.workdir import Workdir
from tests.reports import make_analysis


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_and_pictures_are_written_to_both(tmp_path):
    writer = MetricWriter(Workdir(tmp_path))
    writer.scalars(3, {"loss/total": 0.5, "eval/AP": float("nan")})
    writer.image(3, "batch", np.zeros((8, 8, 3), np.uint8))
    writer.close()
    assert rows(tmp_path) == [{"step": 3, "loss/total": 0.5, "eval/AP": None}]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("loss/total")] == [0.5]
    assert board.Images("batch")[0].height == 8


def test_rows_after_the_last_checkpoint_are_taken_back(tmp_path):
    writer = MetricWriter(Workdir(tmp_path))
    for step in (1, 2, 3, 4):
        writer.scalars(step, {"loss/total": step})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "loss/to')  # Cut off by a kill.
    writer = MetricWriter(Workdir(tmp_path), start_step=2)
    writer.scalars(3, {"loss/total": 30})
    writer.close()
    assert [(row["step"], row["loss/total"]) for row in rows(tmp_path)] == [(1, 1), (2, 2), (3, 30)]


def test_curves_of_classes_are_points_by_rising_threshold(tmp_path):
    writer = MetricWriter(Workdir(tmp_path))
    writer.curves(3, make_analysis(("cat", "dog")))
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert board.Tags()["tensors"] == ["precision_by_recall/cat", "precision_by_recall/dog"]
    (event,) = board.Tensors("precision_by_recall/cat")
    found, false, _, missed, precision, recall = tensor_util.make_ndarray(event.tensor_proto)
    assert event.step == 3
    # All 10 boxes at half the precision first; at recall 0.5, 5 of them and nothing false.
    assert (found[0], false[0], missed[0], precision[0], recall[0]) == (10, 10, 0, 0.5, 1)
    assert np.allclose([found[50], false[50], missed[50], precision[50]], [5, 0, 5, 1])
    assert recall[-1] == 0
