import json

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from effdet_jax.run.metrics import MetricWriter
from effdet_jax.run.workdir import Workdir


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
