import pytest

from effdet_jax.checkpoint import Checkpoints
from effdet_jax.run.divergence import going_back
from effdet_jax.run.monitor import Monitor, TrainingError


class Saved(Checkpoints):
    """Checkpoints that are nothing but their steps."""

    steps = ()

    def __init__(self, *steps):
        self.steps = list(steps)

    def delete(self, steps):
        self.steps = [step for step in self.steps if step not in steps]


class Stopped(Monitor):
    """A monitor whose last finite step was `step`."""

    def __init__(self, step):
        self.last_good_step = step


@pytest.mark.parametrize(
    ("steps", "last_good", "start", "left", "said"),
    [
        ([4, 8], 8, 0, [4], "try less goes on from step 4"),
        ([4, 8], 9, 0, [4, 8], "try less goes on from step 8"),  # 8 was trained on from.
        ([2], 2, 0, [], "try less starts anew"),  # Destroyed before its only checkpoint.
        ([2], 2, 2, [2], "try less, in a new --workdir: the checkpoint of step 2 fails at once"),
        ([1, 2], 2, 2, [1], "try less goes on from step 1"),
    ],
)
def test_checkpoints_of_destroyed_parameters_are_deleted(steps, last_good, start, left, said):
    saved = Saved(*steps)
    with (
        pytest.raises(TrainingError, match=said),
        going_back(saved, Stopped(last_good), start),
    ):
        raise TrainingError("try less")
    assert saved.steps == left


def test_other_errors_delete_nothing():
    saved = Saved(4, 8)
    with pytest.raises(KeyError), going_back(saved, Stopped(1), 0):
        raise KeyError
    assert saved.steps == [4, 8]
