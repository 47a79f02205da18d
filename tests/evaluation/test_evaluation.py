import dataclasses
import math
from typing import ClassVar

from effdet_jax.checkpoint import THRESHOLD
from effdet_jax.evaluation.evaluation import Evaluation, finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(Evaluation):
    """The least that an evaluation has to say."""

    criterion: ClassVar = "share"
    unit: ClassVar = "answers"

    num_images = 4
    summary: ClassVar = {"share": 0.75, "other": math.nan}


def test_what_follows_from_the_metrics():
    result = Counted(unreadable=["image 3"], loss={"loss/total": 2.0})
    assert result.value == 0.75 and not result.is_low(1.0)
    assert result.scalars().items() >= {"eval/share": 0.75, "eval/loss/total": 2.0}.items()
    assert THRESHOLD not in result.scalars()
    assert result.warnings == ["warning: image 3 can't be read and counts as without answers"]
    assert result.to_dict() == {
        "num_images": 4,
        "unreadable": ["image 3"],
        "summary": {"share": 0.75, "other": None},
        "loss": {"total": 2.0},
    }


def test_a_known_threshold_is_among_the_numbers():
    class Shown(Counted):
        score_threshold = 0.0

    assert Shown().scalars()[THRESHOLD] == 0.0


def test_what_is_no_number_is_none():
    assert finite({"a": 1.0, "b": math.inf, "c": math.nan}) == {"a": 1.0, "b": None, "c": None}
