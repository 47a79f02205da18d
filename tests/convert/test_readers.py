import json
import tarfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from effdet_jax.convert.readers import EMA, read_weights
from effdet_jax.convert.rules import ConversionError
from tests.conftest import shared
from tests.convert.test_tensorbundle import write_bundle
from tests.convert.torch_files import write_pth

ONE = np.ones(2, np.float32)
EFFDET = {"class_net.predict.conv_pw.weight": ONE, "backbone.bn1.weight": 2 * ONE}
AUTOML = {"class_net/class-predict/pointwise_kernel": ONE, "a/bn/moving_mean": 2 * ONE}


def averaged(tensors):
    """With moving averages ten times the variables, and what an optimizer leaves."""
    both = tensors | {name + EMA: 10 * array for name, array in tensors.items()}
    momenta = {f"{name}/Momentum": array for name, array in tensors.items()}
    return both | momenta | {"global_step": np.array(3, np.int64)}


def test_moving_averages_are_taken_and_said(tmp_path):
    prefix = write_bundle(tmp_path / "model.ckpt-3", averaged(AUTOML))
    found = read_weights(prefix)
    assert found.kind == "automl" and set(found.tensors) == set(AUTOML)
    np.testing.assert_array_equal(found.tensors["a/bn/moving_mean"], 20 * ONE)
    assert "moving averages of 2 variables taken (--raw takes" in found.notes[0]
    assert found.notes[1] == "left out: 3 of the optimizer's tensors and counters"

    found = read_weights(prefix, raw=True)
    np.testing.assert_array_equal(found.tensors["a/bn/moving_mean"], 2 * ONE)
    assert found.notes[0] == "raw variables taken, not their moving averages"


def test_missing_moving_averages_are_said(tmp_path):
    found = read_weights(write_bundle(tmp_path / "model", AUTOML))
    assert found.notes == ("no moving averages there: the variables themselves taken",)
    some = averaged(AUTOML)
    del some["a/bn/moving_mean" + EMA]
    found = read_weights(write_bundle(tmp_path / "some", some))
    assert "of 1 variables taken; 1 have none: a/bn/moving_mean" in found.notes[0]


def test_checkpoints_that_hold_an_optimizer_only_are_refused(tmp_path):
    only = {"a/Momentum": ONE, "global_step": np.array(3, np.int64)}
    with pytest.raises(ConversionError, match="nothing but what an optimizer keeps"):
        read_weights(write_bundle(tmp_path / "model", only))


def test_a_folder_and_an_archive_of_it_are_a_checkpoint(tmp_path):
    folder = tmp_path / "efficientdet-d0"
    folder.mkdir()
    for name in ("model-1", "model-2"):
        write_bundle(folder / name, AUTOML)
    with pytest.raises(ConversionError, match="holds 2 checkpoints; give the prefix of one"):
        read_weights(folder)
    with tarfile.open(tmp_path / "two.tar.gz", "w:gz") as archive:
        archive.add(folder, "efficientdet-d0")
    with pytest.raises(
        ConversionError, match=r"'\S*/two.tar.gz' holds 2 checkpoints.*\n.*two.tar.gz/ef"
    ):
        read_weights(tmp_path / "two.tar.gz")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model-2"\n')
    assert read_weights(folder).tensors.keys() == AUTOML.keys()
    assert read_weights(folder / "model-1.index").tensors.keys() == AUTOML.keys()
    with tarfile.open(tmp_path / "d0.tar.gz", "w:gz") as archive:
        archive.add(folder, "efficientdet-d0")
    found = read_weights(tmp_path / "d0.tar.gz")
    np.testing.assert_array_equal(found.tensors["a/bn/moving_mean"], 2 * ONE)


def test_tf2_object_checkpoints_with_averages_in_slots(tmp_path):
    names = {"class_net/classes/pointwise_kernel": ONE, "class_net/classes/bias": 2 * ONE}
    stored = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": array for name, array in names.items()}
    plain = read_weights(write_bundle(tmp_path / "plain", stored))
    assert plain.kind == "automl-tf2" and set(plain.tensors) == set(names)
    for slot in ("average", "momentum"):
        stored |= {
            f"{name}/.OPTIMIZER_SLOT/optimizer/{slot}/.ATTRIBUTES/VARIABLE_VALUE": 10 * array
            for name, array in names.items()
        }
    stored["optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE"] = np.array(3, np.int64)
    found = read_weights(write_bundle(tmp_path / "trained", stored))
    np.testing.assert_array_equal(found.tensors["class_net/classes/bias"], 20 * ONE)
    assert "moving averages of 2 variables taken" in found.notes[0]


def test_keras_files(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in AUTOML.items():
            file[f"{name.split('/')[0]}/{name}:0"] = array
    found = read_weights(tmp_path / "w.h5")
    assert found.kind == "automl" and set(found.tensors) == set(AUTOML)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "w.h5").read_bytes()[:100])
    with pytest.raises(ConversionError, match="can't be read as HDF5"):
        read_weights(tmp_path / "cut.h5")


@pytest.mark.parametrize(
    "prefix",
    ["module.", "module.model.", "_orig_mod.", "module._orig_mod.", "net.", "ema_model.module."],
)
def test_prefixes_of_training_are_removed_and_said(tmp_path, prefix):
    tensors = {prefix + name: array for name, array in EFFDET.items()}
    save_file(tensors | {"anchors.boxes": np.zeros((9, 4))}, tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors")
    assert found.kind == "effdet" and set(found.tensors) == set(EFFDET)
    assert f"prefix '{prefix}' removed from 2 names" in found.notes
    assert "left out: 1 tensors of the anchors (anchors.boxes, …)" in found.notes


def test_half_precision_is_made_float32_and_said(tmp_path):
    halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in EFFDET.items()}
    for suffix, write in ((".safetensors", save_file), (".pth", lambda t, p: write_pth(p, t))):
        write(halves, tmp_path / f"w{suffix}")
        found = read_weights(tmp_path / f"w{suffix}")
        assert found.notes == ("stored as bfloat16: 2 tensors, made float32, exactly",)
        assert all(array.dtype == np.float32 for array in found.tensors.values())


def test_the_averages_of_a_pytorch_run_are_taken(tmp_path):
    run = {
        "state_dict": EFFDET,
        "epoch": 3,
        "state_dict_ema": {k: 3 * v for k, v in EFFDET.items()},
    }
    write_pth(tmp_path / "run.pth", run)
    found = read_weights(tmp_path / "run.pth")
    np.testing.assert_array_equal(found.tensors["backbone.bn1.weight"], 6 * ONE)
    assert found.notes == (
        "'state_dict_ema' taken, not epoch, state_dict",
        "moving averages taken, not state_dict (--raw takes the network itself)",
    )
    found = read_weights(tmp_path / "run.pth", raw=True)
    np.testing.assert_array_equal(found.tensors["backbone.bn1.weight"], 2 * ONE)


def test_imagenet_classifiers_lose_what_no_detector_has(tmp_path):
    timm = {"conv_stem.weight": ONE, "classifier.weight": ONE, "bn2.bias": ONE, "bn1.bias": ONE}
    save_file(timm, tmp_path / "b0.safetensors")
    found = read_weights(tmp_path / "b0.safetensors")
    assert found.kind == "timm" and set(found.tensors) == {"conv_stem.weight", "bn1.bias"}
    assert found.notes[0].startswith("left out: 2 tensors of the ImageNet classifier")
    names = ("stem/conv2d/kernel", "head/dense/kernel")
    for scope in ("efficientnet-b0", "efficientnet-b0/model"):
        automl = {f"{scope}/{name}": ONE for name in names}
        found = read_weights(write_bundle(tmp_path / "b0", automl))
        assert found.kind == "efficientnet"
        assert set(found.tensors) == {"efficientnet-b0/stem/conv2d/kernel"}


@pytest.mark.parametrize(
    ("name", "looks"),
    [
        ("model.0.conv.weight", "ultralytics' YOLO"),
        ("backbone.bottom_up.res2.weight", "detectron2"),
        ("FeatureExtractor/Conv/weights", "TensorFlow's Object Detection API"),
        ("layer1.0.conv1.weight", "a ResNet"),
        ("x", None),
    ],
)
def test_other_weights_are_refused_with_what_they_look_like(tmp_path, name, looks):
    save_file({name: ONE}, tmp_path / "w.safetensors")
    with pytest.raises(ConversionError, match=r"no EfficientDet or EfficientNet.*1 tensors") as e:
        read_weights(tmp_path / "w.safetensors")
    assert str(e.value).endswith(f"it looks like {looks}" if looks else "…)")


def test_files_that_are_no_weights(tmp_path):
    for name, content, message in (
        ("text.safetensors", b"no", "can't be read as safetensors"),
        ("empty.pth", b"", "is empty"),
        ("text.npz", b"no", "can't be read as .npz"),
        ("text.tar.gz", b"no", "can't be unpacked"),
        ("photo.jpg", b"no", "isn't of a kind that is read here"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConversionError, match=message):
            read_weights(tmp_path / name)
    with pytest.raises(ConversionError, match="there is no '.*missing.pth'"):
        read_weights(tmp_path / "missing.pth")
    with pytest.raises(ConversionError, match="holds no checkpoint: neither a training run's"):
        read_weights(tmp_path)


def test_official_keras_names(tmp_path):
    """A file of the recorded keys and shapes of an official Keras `.h5`."""
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    recorded = json.loads(shared("goldens/automl_d0_128/tf2/tf2.json").read_text())
    values = read_weights(shared("goldens/automl_d0_128")).tensors
    with h5py.File(tmp_path / "d0.h5", "w") as file:
        for key, shape in recorded["h5_keys"]:
            array = values[key.split("/", 1)[1].removesuffix(":0")]
            assert list(array.shape) == shape
            file[key] = array
    found = read_weights(tmp_path / "d0.h5").tensors
    assert found.keys() == values.keys()
    assert all((found[name] == values[name]).all() for name in found)
