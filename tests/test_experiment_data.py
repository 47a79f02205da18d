import pytest

from effdet_jax.classes import COCO
from effdet_jax.config import OPEN, ConfigError
from effdet_jax.experiment import Experiment
from effdet_jax.experiment_data import create_spec
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.model.merge import MERGES
from tests.data.test_mask_folder import pets
from tests.doubles import make_folder
from tests.tiny import changed_config, tiny_config

ALL_OPEN = {**OPEN, "optim.name": "adamw"}


def made(folder, **options):
    config = changed_config(**ALL_OPEN, **{"data.dir": str(folder), "data.val_fraction": 0.0})
    return Experiment.from_config(config, **options)


def test_what_is_open_is_decided_by_the_training_data(tmp_path):
    make_folder(tmp_path)  # Of three images.
    experiment = made(tmp_path)
    assert experiment.asked.num_epochs == -1.0 and experiment.config.num_epochs == 100.0
    assert experiment.metadata.config["num_epochs"] == 100.0
    assert any("3 images without initial weights" in made.line() for made in experiment.decisions)


def test_a_run_goes_on_with_what_it_decided_but_not_against_what_is_asked(tmp_path):
    make_folder(tmp_path)
    earlier = {"num_epochs": 7.0, "optim": {"ema_decay": 0.5}, "batch_size": 24}
    experiment = made(tmp_path, earlier=earlier)
    assert (experiment.config.num_epochs, experiment.config.optim.ema_decay) == (7.0, 0.5)
    assert "num_epochs 7: as this run began" in [made.line() for made in experiment.decisions]
    config = changed_config(**{**ALL_OPEN, "num_epochs": 9.0, "data.dir": str(tmp_path)})
    assert Experiment.from_config(config, earlier=earlier).config.num_epochs == 9.0


def test_a_run_that_goes_on_needs_its_initial_weights_no_more(tmp_path):
    make_folder(tmp_path)
    earlier = made(tmp_path).metadata.config
    config = changed_config(**ALL_OPEN, **{"data.dir": str(tmp_path), "init": "deleted.pth"})
    experiment = Experiment.from_config(config, earlier=earlier)
    assert experiment.config.num_epochs == earlier["num_epochs"]


def test_what_needs_no_data_opens_none():
    experiment = Experiment.from_config(changed_config(**ALL_OPEN), class_names=COCO)
    assert experiment.spec.anchor_scale == 4.0  # The model's own.


@pytest.mark.parametrize("graph", PYRAMIDS)
def test_a_knob_reaches_every_pyramid(graph):
    knobs = {"model.pyramid": graph, "model.pooling": "disjoint", "model.laterals": "level"}
    spec = create_spec(tiny_config(**knobs).model, num_classes=2)
    assert (spec.pyramid, spec.pooling, spec.laterals) == (graph, "disjoint", "level")


@pytest.mark.parametrize("fusion", MERGES)
def test_a_knob_reaches_every_fusion(fusion):
    assert create_spec(tiny_config(**{"model.fusion": fusion}).model, 2).fusion == fusion


def test_the_coarsest_level_is_a_knob():
    assert create_spec(tiny_config().model, 2).levels == (3, 4, 5, 6, 7)
    assert create_spec(tiny_config(**{"model.max_level": 5}).model, 2).levels == (3, 4, 5)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"model.max_level": 3}, "max_level is 3; it must be above min_level, 3"),
        ({"model.max_level": 8, "model.pyramid": "nasfpn"}, "searched for levels 3 to 7 alone"),
        ({"model.pyramid": "pan"}, "'pan' is unknown; there are bifpn, fpn, panet, simple_panet"),
        ({"model.fusion": "attn"}, "'attn' is unknown; there are fast, softmax, unbounded, chan"),
        ({"model.pooling": "2x2"}, "pooling '2x2' is unknown; there are overlapping, disjoint"),
    ],
)
def test_a_pyramid_that_there_is_not_is_refused_by_name(knobs, message):
    with pytest.raises(ConfigError, match=message):
        create_spec(tiny_config(**knobs).model, 2)


def test_a_folder_of_masks_needs_no_boxes_and_is_opened_for_what_the_objective_needs(tmp_path):
    pets(tmp_path)
    config = changed_config(
        **ALL_OPEN,
        **{"data.dir": str(tmp_path), "data.val_fraction": 0.0, "model.objective": "segment"},
    )
    experiment = Experiment.from_config(config)
    assert experiment.train_source[0].mask is not None
    assert experiment.class_names.names == ("class 1", "class 2", "class 3")
    assert (
        experiment.criterion == "mIoU" and experiment.data_fit.fit_anchors(experiment.spec) is None
    )
    assert not [line for line in experiment.banner_lines() if "at most 0" in line]
    batch = next(experiment.train_batches())
    assert batch["masks"].shape == batch["image"].shape[:3]
