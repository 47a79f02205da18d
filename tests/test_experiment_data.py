from effdet_jax.classes import COCO
from effdet_jax.config import OPEN
from effdet_jax.experiment import Experiment
from tests.data.test_mask_folder import pets
from tests.doubles import make_folder
from tests.tiny import changed_config

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
