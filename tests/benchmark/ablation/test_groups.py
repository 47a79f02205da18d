import pytest

from effdet_jax.benchmark.ablation.groups import GROUPS, create_config
from effdet_jax.benchmark.ablation.learn import count
from effdet_jax.experiment import Experiment
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.model.merge import MERGES

ENTRIES = [(group, name) for group, entries in GROUPS.items() for name in entries]


@pytest.mark.parametrize(("group", "name"), ENTRIES)
def test_each_entry_is_a_model(group, name):
    """Knobs that were mistyped, or go with no other, are refused here and not after an hour."""
    changes = GROUPS[group][name]
    experiment = Experiment.from_config(create_config(changes, seed=3, steps=600))
    spec = experiment.spec
    assert (spec.pyramid, spec.fusion) == (
        changes.get("model.pyramid", "bifpn"),
        changes.get("model.fusion", "fast"),
    )
    schedule = experiment.schedule
    assert schedule.total_steps == 600 and schedule.warmup_steps == 60
    saved = [step for step in range(1, 601) if schedule.saves_after(step)]
    assert saved[-1] == 600 and len(saved) >= 10
    assert len(saved) <= experiment.keep_checkpoints or group != "fusions"
    assert [step for step in saved if schedule.evaluates_after(step)] == [600]


def test_every_pyramid_and_fusion_is_there():
    assert {entry.get("model.pyramid", "bifpn") for entry in GROUPS["pyramids"].values()} == set(
        PYRAMIDS
    )
    assert set(GROUPS["fusions"]) == set(MERGES) - {"attention"}


def test_names_are_of_one_entry():
    """They are folders."""
    names = [name for group, name in ENTRIES if GROUPS[group][name]]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_scalings_cost_the_same():
    costs = {name: count(changes) for name, changes in GROUPS["scaling"].items()}
    assert costs["unscaled"]["parameters"] == 175_689  # As a training's banner says, too.
    unscaled = costs.pop("unscaled")["multiply_adds"]
    adds = [cost["multiply_adds"] for cost in costs.values()]
    assert max(adds) < 1.05 * min(adds) and min(adds) > 1.55 * unscaled, costs
