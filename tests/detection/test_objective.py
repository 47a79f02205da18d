import dataclasses

import pytest

from effdet_jax.detection.objective import OBJECTIVES, Objective, create_objective
from effdet_jax.detection.retina import Retina
from tests.tiny import tiny_spec


def test_every_entry_keeps_the_protocol():
    for name in OBJECTIVES:
        spec = dataclasses.replace(tiny_spec(), objective=name)
        assert isinstance(create_objective(spec), Objective)


def test_an_unknown_objective_lists_the_known():
    spec = dataclasses.replace(tiny_spec(), objective="fcos")
    with pytest.raises(ValueError, match="objective 'fcos' is unknown; there are retina"):
        create_objective(spec)


def test_loss_options_reach_the_objective():
    objective = create_objective(tiny_spec(), {"gamma": 2.0})
    assert isinstance(objective, Retina) and objective._loss == {"gamma": 2.0}
