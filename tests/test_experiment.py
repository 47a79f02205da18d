import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from effdet_jax.classes import COCO, ClassNames
from effdet_jax.config import PROTOCOLS, ConfigError
from effdet_jax.data.augment import AugmentError
from effdet_jax.data.example import DataError
from effdet_jax.data.images import read_image
from effdet_jax.data.sample import AugmentSettings
from effdet_jax.detection.postprocess import detect
from effdet_jax.evaluation.loop import SCORERS
from effdet_jax.experiment import Experiment
from effdet_jax.training.state import TrainState
from tests.doubles import make_folder
from tests.tiny import changed_config, tiny_config


def experiment(class_names=COCO, devices=None, num_examples=100, **changes):
    """Of the default config; `changes` by full key."""
    return Experiment.from_config(
        changed_config(**changes),
        class_names=class_names,
        devices=devices,
        num_examples=num_examples,
    )


def test_an_experiment_has_a_config_of_its_own():
    config = changed_config()
    made = Experiment.from_config(config, class_names=COCO)
    config.batch_size = 7
    assert made.batch_size == 128 and made.metadata.config["batch_size"] == 128
    assert made.spec is made.spec  # Made once.
    with pytest.raises(ConfigError, match="dtype='float16'"):
        Experiment.from_config(changed_config(dtype="float16"))
    with pytest.raises(AugmentError, match="augment.ops: 'mosaik' isn't one of 'flip', 'scale"):
        Experiment.from_config(changed_config(**{"augment.ops": ("flip", "mosaik")}))


# Data.


def test_shapes_of_training_and_validation_never_meet():
    made = Experiment.from_config(changed_config(**{"data.source": "shapes", "data.shapes_val": 5}))
    train, val = made.train_source, made.val_source
    assert train.endless and not val.endless and len(val) == 5
    assert not np.array_equal(train[0].image, val[0].image)
    assert made.class_names == train.class_names and made.spec.num_classes == 6


def test_data_is_opened_with_the_values_below_data(tmp_path):
    make_folder(tmp_path)
    knobs = {"data.dir": str(tmp_path), "data.val_fraction": 0.0}
    assert len(experiment(**knobs).train_source) == 3
    with pytest.raises(DataError, match="source='vok' isn't one of 'auto', 'coco', 'voc'"):
        experiment(**{"data.source": "vok"}).open_source("val")


def test_augmentations_are_made_from_the_values_below_augment():
    settings = experiment(**{"augment.ops": ("flip",), "model.image_size": "128"}).augment_settings
    assert settings == AugmentSettings((128, 128), ops=("flip",))
    # The defaults of config.py and of the settings are the same.
    assert experiment().augment_settings == AugmentSettings((512, 512))


def test_validation_data_has_the_classes_of_the_training_data_by_name(tmp_path):
    make_folder(tmp_path)
    val = {"data.dir": str(tmp_path), "data.val_json": str(tmp_path / "train.json")}
    assert experiment(class_names=None, **val).val_source.class_names.names == ("dog", "cat")
    reordered = experiment(class_names=ClassNames(("cat", "dog"), (1, 2)), **val).val_source
    assert [truth.labels.tolist() for truth in reordered.ground_truth()] == [[0]] * 3
    assert reordered.class_names == ClassNames(("cat", "dog"), (5, 2))  # Its own ids.
    cows = experiment(class_names=ClassNames.from_names(["cat", "cow"]), **val)
    with pytest.raises(DataError, match="the model has no class 'dog'"):
        cows.val_source  # noqa: B018 (made when asked for)


def test_without_validation_data_there_is_none(tmp_path):
    make_folder(tmp_path)
    knobs = {"data.dir": str(tmp_path), "data.val_fraction": 0.0}
    assert experiment(class_names=None, **knobs).val_source is None
    drawn = experiment(class_names=None, **knobs | {"data.val_fraction": 0.4})
    assert (len(drawn.train_source), len(drawn.val_source)) == (2, 1)


def test_paths_begin_at_home_where_they_say_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_folder(tmp_path)
    assert len(experiment(class_names=None, **{"data.dir": "~"}).train_source) == 2


def test_batches_go_on_from_any_step_as_the_config_says():
    knobs = {"data.source": "shapes", "data.shapes_size": 64, "batch_size": 8, "data.max_boxes": 5}
    made = Experiment.from_config(tiny_config(**knobs))
    whole = made.train_batches()
    batches = [next(whole) for _ in range(3)]
    assert batches[0]["image"].shape == (8, 64, 64, 3) and batches[0]["boxes"].shape == (8, 5, 4)
    resumed = next(made.train_batches(start_step=2))
    np.testing.assert_array_equal(resumed["image"], batches[2]["image"])


def test_slots_and_repeats_come_from_the_data(tmp_path):
    make_folder(tmp_path)  # Three images with a cat each.
    knobs = {"data.dir": str(tmp_path), "batch_size": 8, "model.image_size": "128"}
    knobs["data.val_fraction"] = 0.0
    made = Experiment.from_config(changed_config(**knobs, **{"data.balance": 0.5}))
    assert made.data_fit.max_boxes == 8 and made.data_fit.repeats.tolist() == [1.0] * 3
    batch = next(made.train_batches())
    assert batch["boxes"].shape == (8, 8, 4) and batch["ignored"].shape == (8, 16, 16)
    assert Experiment.from_config(changed_config(**knobs), class_names=COCO).data_fit.source is None


def test_anchors_are_fitted_to_the_data(tmp_path):
    make_folder(tmp_path)  # Boxes of 20×10 in images of 40×30, at 128 px 64×32.
    knobs = {"data.dir": str(tmp_path), "model.image_size": "128"}
    fit = Experiment.from_config(changed_config(**knobs)).anchor_fit
    assert fit.keeps_defaults and fit.unmatched() == 0 and fit.names == ["dog", "cat"]
    np.testing.assert_allclose(fit.sides, (64 * 32) ** 0.5, rtol=1e-6)


# Devices and the model.


def test_the_mesh_is_what_the_config_says():
    knobs = {"mesh.fsdp": 2, "mesh.spatial": 2, "batch_size": 4}
    assert dict(experiment(**knobs).mesh.shape) == {"data": 2, "fsdp": 2, "spatial": 2}
    assert experiment(devices=jax.devices()[:4], **knobs).mesh.shape["data"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "batch_size 12 doesn't divide by the 8 devices; use 8 or 16"),
        ({"mesh.fsdp": 16}, "8 devices don't divide by fsdp 16"),
        ({"microbatches": 3}, "the 8 devices × 3 microbatches; use 120 or 144"),
    ],
)
def test_what_does_not_divide_is_a_config_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        experiment(**changes).mesh  # noqa: B018


def test_the_spec_is_the_variants_unless_changed():
    seven = ClassNames.from_names("abcdefg")
    spec = experiment(seven, **{"model.name": "efficientdet-d3"}).spec
    assert (spec.image_size, spec.num_classes, spec.anchor_scale) == ((896, 896), 7, 4.0)
    changes = {"model.image_size": "128x256", "model.fusion": "sum", "model.anchor_scale": 2.0}
    spec = experiment(seven, **changes, **{"model.drop_connect": 0.0}).spec
    assert (spec.image_size, spec.fusion, spec.anchor_scale) == ((128, 256), "sum", 2.0)
    assert spec.survival_probability == 1.0
    spec = experiment(seven, **{"model.aspects": (4.0, 1.0)}).spec
    assert spec.aspects == ((2.0, 0.5), (1.0, 1.0)) and spec.anchors_per_cell == 6


def test_class_weights_reach_the_loss(tmp_path):
    make_folder(tmp_path)  # Classes dog (id 2), cat (id 5).
    knobs = {"data.dir": str(tmp_path), "loss.class_weights": "cat:3"}
    made = Experiment.from_config(changed_config(**knobs))
    assert made.objective._loss["class_weights"] == (1.0, 3.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.name": "efficientnet-b9"}, "config.model: unknown model 'efficientnet-b9'"),
        ({"model.image_size": "64x96"}, "config.model: image_size 64×96 can't be"),
        ({"model.fusion": "mean"}, "config.model: .*'mean'"),
        ({"model.aspects": (1.0, 0.0)}, "config.model: aspects 1, 0 must be above 0"),
    ],
)
def test_models_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        experiment(**changes).spec  # noqa: B018


def test_image_rows_must_divide_over_the_spatial_axis():
    with pytest.raises(ConfigError, match="512 image rows don't divide by mesh.spatial 3.*513x640"):
        experiment(**{"mesh.spatial": 3, "model.image_size": "512x640"}).model  # noqa: B018


def test_the_model_computes_as_asked_or_as_its_devices_like(monkeypatch):
    model = experiment(remat="blocks").model
    assert (model.remat, model.dtype, model.spec.num_classes) == ("blocks", jnp.float32, 90)
    assert experiment(dtype="bfloat16").model.dtype == jnp.bfloat16

    class Tpu:
        platform = "tpu"

    monkeypatch.setattr(jax, "devices", lambda: [Tpu()])
    made = experiment()
    assert made.dtype == jnp.bfloat16 and made.metadata.dtype == "bfloat16"


# Training.


def test_a_run_without_steps_is_a_config_error():
    with pytest.raises(ConfigError, match="0.001 epochs of 100 images in batches of 128 are zero"):
        experiment(num_epochs=0.001).schedule  # noqa: B018


def test_the_learning_rate_scales_with_the_batch():
    made = experiment(**{"optim.schedule": "cosine", "optim.warmup_epochs": 1.0}, num_examples=1280)
    assert made.peak_learning_rate == pytest.approx(2 * 0.08)
    assert float(made.learning_rate(0)) == pytest.approx(2 * 0.008)
    assert made.schedule.warmup_steps == 10


# Evaluation.


def test_the_protocols_are_keywords_of_detect():
    for protocol in PROTOCOLS.values():
        assert protocol.keys() <= inspect.signature(detect).parameters.keys()
    assert experiment().detect_options == PROTOCOLS["default"]


def test_the_published_protocol_is_soft_nms_that_counts_pixels_but_for_knobs_that_are_set():
    options = experiment(**{"eval.protocol": "published"}).detect_options
    assert options == PROTOCOLS["published"]
    assert (options["method"], options["pixel_offset"], options["sigma"]) == ("gaussian", 1.0, 0.5)
    knobs = {"eval.protocol": "published", "eval.pixel_offset": 0.0, "eval.max_detections": 7}
    expected = PROTOCOLS["published"] | {"pixel_offset": 0.0, "max_detections": 7}
    assert experiment(**knobs).detect_options == expected


def test_the_range_of_16_bit_images_is_the_training_datas_and_goes_with_the_model(tmp_path):
    make_folder(tmp_path)
    for path in (tmp_path / "images").iterdir():
        Image.fromarray(np.full((30, 40), 1000, np.uint16)).save(path)
    Image.fromarray(np.full((30, 40), 3000, np.uint16)).save(tmp_path / "images" / "2.png")
    config = tiny_config(**{"data.dir": str(tmp_path), "data.val_json": f"{tmp_path}/train.json"})
    made = Experiment.from_config(config)
    assert made.spec.intensity == made.val_source.intensity == (1000.0, 3000.0)
    assert made.val_source[2].image.min() == 255
    config.data.intensity = (0.0, 4000.0)
    made = Experiment.from_config(config)
    assert made.spec.intensity == made.val_source.intensity == (0.0, 4000.0)
    image = read_image(str(tmp_path / "images" / "0.png"), made.spec.intensity)
    assert image.max() == round(255 / 4)


def test_raw_and_averaged_weights_are_evaluated_where_they_differ():
    state = TrainState(0, {"a": 1}, {}, None, {"params": {"a": 2}, "batch_stats": {}})
    raw = {"raw": {"params": {"a": 1}, "batch_stats": {}}}
    assert experiment().evaluated_variables(state) == {"averaged": state.ema} | raw
    assert experiment(**{"eval.weights": "raw"}).evaluated_variables(state) == raw
    assert experiment(**{"optim.ema_decay": 0.0}).evaluated_variables(state) == raw


def test_what_is_frozen_is_not_decayed_and_a_wrong_pattern_is_refused():
    made = Experiment.from_config(tiny_config(freeze="class_head, box_head"), class_names=COCO)
    assert {path[0] for path in made.frozen} == {"class_head", "box_head"}
    frozen = Experiment.from_config(tiny_config(bn="frozen_backbone"), class_names=COCO).frozen
    assert ("backbone", "stem_bn") in frozen and ("backbone", "stem_conv") not in frozen
    assert all(path[0] == "backbone" for path in frozen)
    with pytest.raises(ConfigError, match="--config.freeze=neck: 'neck' matches no module"):
        Experiment.from_config(tiny_config(freeze="neck"), class_names=COCO).frozen  # noqa: B018


@pytest.mark.parametrize(
    ("model", "asked", "criterion"),
    [
        ("efficientdet-d0", "", "AP"),
        ("efficientdet-d0", "AR", "AR"),
        ("efficientnet-b0", "", "top1"),
        ("efficientnet-b0", "top5", "top5"),
    ],
)
def test_the_best_is_by_what_the_objective_measures_first_or_what_is_asked(model, asked, criterion):
    made = experiment(**{"model.name": model, "eval.criterion": asked})
    assert made.criterion == criterion
    known = SCORERS[made.objective.measures].criteria
    (other,) = {"AP50", "top1"} - set(known)
    wrong = experiment(**{"model.name": model, "eval.criterion": other})
    with pytest.raises(ConfigError, match=f"criterion='{other}' isn't one of '{known[0]}', "):
        wrong.criterion  # noqa: B018


def test_a_classifiers_knobs_reach_spec_augmentation_and_schedule():
    made = experiment(
        **{
            "model.name": "efficientnet-lite0",
            "model.dropout": 0.0,
            "batch_size": 8,  # 12.5 steps are an epoch of 100 images.
            "optim.schedule": "exponential",
            "optim.warmup_epochs": 0.0,
            "optim.decay_epochs": 0.5,
        }
    )
    assert made.spec.dropout == 0.0 and made.augment_settings.crop == 0.875
    assert made.anchor_fit is None
    rates = [float(made.learning_rate(step)) for step in (0, 6, 7, 13)]
    assert rates == pytest.approx([made.peak_learning_rate * x for x in (1, 1, 0.97, 0.97**2)])
