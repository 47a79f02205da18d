import dataclasses
import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from effdet_jax.checkpoint import (
    BEST,
    LAST,
    CheckpointError,
    Checkpoints,
    Metadata,
    abstract_arrays,
    find_checkpoint,
    is_checkpoint,
    merge_variables,
    restore_model,
)
from effdet_jax.classes import ClassNames
from effdet_jax.model.detector import Detector
from tests.tiny import random_variables, tiny_spec

SPEC = tiny_spec()
LABELS = ClassNames(("cat", "dog"), (5, 9))
ONE = {"w": np.ones(1)}  # Orbax wants something in every part.
METADATA = Metadata(SPEC, LABELS, {"optim": {"learning_rate": 0.1}, "drop": [1.0, 2.0]})


def at(step, **metrics):
    return dataclasses.replace(METADATA, step=step, metrics=metrics)


def on_one_device(tree):
    return abstract_arrays(tree, jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def test_what_is_saved_comes_back(tmp_path):
    train, ema = {"w": jnp.arange(3.0)}, {"w": jnp.arange(3.0) / 3}
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.latest_step is None
    checkpoints.save(at(7, **{"eval/AP": 0.5}), train, ema)
    checkpoints.close()
    again = Checkpoints(tmp_path / "c")
    assert again.latest_step == 7 and again.metadata() == at(7, **{"eval/AP": 0.5})
    loaded = again.restore(train=on_one_device(train), ema=on_one_device(ema))
    jax.tree.map(np.testing.assert_array_equal, loaded, {"train": train, "ema": ema})


def test_only_the_latest_are_kept_and_one_that_exists_is_replaced(tmp_path):
    for steps in ((1, 2, 3), (3,)):
        checkpoints = Checkpoints(tmp_path / "c", keep=2)
        for step in steps:
            checkpoints.save(at(step), ONE, ONE)
        checkpoints.close()
    steps = sorted(int(path.name) for path in (tmp_path / "c").iterdir() if path.name.isdigit())
    assert steps == [2, 3]


def test_what_a_killed_run_left_is_cleared_by_the_next_run_but_not_by_a_reader(tmp_path):
    checkpoints = Checkpoints(tmp_path / BEST)
    checkpoints.save(at(1), ONE, ONE)
    checkpoints.close()
    unfinished = tmp_path / BEST / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert find_checkpoint(tmp_path).latest_step == 1 and unfinished.exists()
    checkpoints = Checkpoints(tmp_path / BEST)
    checkpoints.save(at(3), ONE, ONE)
    checkpoints.close()
    assert checkpoints.latest_step == 3 and not unfinished.exists()


def test_arrays_that_are_donated_while_they_are_written_are_saved_as_they_were(tmp_path):
    grow = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {"w": jnp.zeros((400, 5000))}  # 8 MB: the step below ends before it is written.
    checkpoints = Checkpoints(tmp_path / "c", keep=9)
    for step in range(1, 5):
        state = grow(state)
        checkpoints.save(at(step), state, ONE)
        for _ in range(3):
            state = grow(state)
    checkpoints.close()
    for step in range(1, 5):
        loaded = ocp.load_checkpointables(
            tmp_path / "c" / str(step), {"train": on_one_device(state)}
        )
        np.testing.assert_array_equal(loaded["train"]["w"], np.full((400, 5000), 4 * step - 3.0))


def test_checkpoints_can_be_listed_and_deleted(tmp_path):
    checkpoints = Checkpoints(tmp_path / LAST, keep=9)
    for step in (1, 2, 3):
        checkpoints.save(at(step), ONE, ONE)
    assert checkpoints.steps == [1, 2, 3] and checkpoints.workdir == str(tmp_path)
    checkpoints.delete([2, 3])
    assert checkpoints.steps == [1]
    checkpoints.close()
    assert Checkpoints(tmp_path / LAST).latest_step == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError('RESOURCE_EXHAUSTED: Error writing "x": No space left on device'),
        ExceptionGroup("saving", [ValueError("one"), OSError(errno.ENOSPC, "No space left")]),
    ],
)
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    checkpoints = Checkpoints(tmp_path / LAST)
    monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", fails)
    with pytest.raises(CheckpointError, match=r"no space left for a checkpoint in .* MB are free"):
        checkpoints.save(at(1), ONE, ONE)


def test_the_best_is_preferred_then_the_last_then_the_folder_itself(tmp_path):
    for folder, step in ((LAST, 9), (BEST, 4), ("own", 1)):
        checkpoints = Checkpoints(tmp_path / folder)
        checkpoints.save(at(step), ONE, ONE)
        checkpoints.close()
    assert find_checkpoint(tmp_path).latest_step == 4
    assert find_checkpoint(tmp_path / LAST).latest_step == 9
    assert find_checkpoint(tmp_path / "own").latest_step == 1


def test_paths_that_are_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        find_checkpoint(tmp_path / "nothing")
    assert not is_checkpoint(tmp_path / "nothing") and not is_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="holds no checkpoint: neither checkpoints/best"):
        find_checkpoint(tmp_path)
    (tmp_path / "12").mkdir()
    with pytest.raises(CheckpointError, match="can't read the checkpoint in"):
        restore_model(tmp_path)


def test_a_model_comes_back_with_its_spec_and_labels(tmp_path):
    variables = random_variables(Detector(SPEC))
    checkpoints = Checkpoints(tmp_path / BEST)
    checkpoints.save(at(1), ONE, variables)
    checkpoints.close()
    assert is_checkpoint(tmp_path)
    model, loaded = restore_model(tmp_path)
    assert model.spec == SPEC and model.class_names == LABELS
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_a_checkpoint_without_the_parts_asked_for_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / BEST)
    checkpoints.save(at(1), ONE, ONE)
    checkpoints.close()
    with pytest.raises(CheckpointError, match="can't read the checkpoint in"):
        restore_model(tmp_path)


def test_metadata_of_version_0_1_is_read():
    fields = dataclasses.replace(at(3), dtype="bfloat16").to_dict()
    assert Metadata.from_dict(fields).dtype == "bfloat16"
    del fields["dtype"]
    assert Metadata.from_dict(fields).dtype == "float32"


def test_the_threshold_of_the_newest_evaluation_comes_with_the_model(tmp_path):
    assert at(1).score_threshold is None  # As in checkpoints of before there was one.
    metadata = at(1, **{"eval/score_threshold": 0.41})
    assert Metadata.from_dict(metadata.to_dict()).score_threshold == 0.41
    checkpoints = Checkpoints(tmp_path / BEST)
    checkpoints.save(metadata, ONE, random_variables(Detector(SPEC)))
    checkpoints.close()
    assert restore_model(tmp_path)[0].score_threshold == 0.41


def test_a_model_computes_as_its_run_evaluated_unless_asked(tmp_path):
    checkpoints = Checkpoints(tmp_path / BEST)
    metadata = dataclasses.replace(at(1), dtype="bfloat16")
    checkpoints.save(metadata, ONE, random_variables(Detector(SPEC)))
    checkpoints.close()
    assert restore_model(tmp_path)[0].dtype == jnp.bfloat16
    assert restore_model(tmp_path, dtype=jnp.float32)[0].dtype == jnp.float32


def test_differences_are_named():
    assert METADATA.difference(at(5)) == ""
    wider = dataclasses.replace(METADATA, spec=dataclasses.replace(SPEC, pyramid_width=88))
    assert METADATA.difference(wider) == "pyramid_width is 64 against 88"
    others = dataclasses.replace(METADATA, class_names=ClassNames(("cat", "cow"), (5, 9)))
    assert METADATA.difference(others) == "class 1 is 'dog' (id 9) against 'cow' (id 9)"


def test_merging_reports_every_tensor():
    fresh = {"params": {"a": np.zeros(3), "b": np.zeros((2, 4)), "c": np.zeros(1)}}
    given = {"params": {"a": np.ones(3), "b": np.ones((2, 9)), "d": np.ones(5)}}
    merged, report = merge_variables(fresh, given)
    assert merged["params"]["a"].tolist() == [1, 1, 1] and not merged["params"]["b"].any()
    assert report.loaded == ("params/a",) and report.unused == ("params/d",)
    assert report.reinitialised == ("params/b (2, 9) → (2, 4)", "params/c")
    assert report.lines() == [
        "loaded 1 of 3 tensors",
        "re-initialised 2: params/b (2, 9) → (2, 4), params/c",
        "unused 1: params/d",
    ]
    with pytest.raises(CheckpointError, match="another architecture"):
        merge_variables(fresh, {"params": {"z": np.ones(1)}})
