"""The whole program, as a user runs it: train, stop, resume, evaluate, predict, and what goes wrong.

A tiny network in processes of their own, which share a compilation cache; what is refused before
anything is compiled, in this one.
"""

import json
import re
import signal
import subprocess
import sys
from unittest import mock

import jax
import nbformat
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from effdet_jax.checkpoint import (
    BEST,
    LAST,
    CheckpointError,
    Checkpoints,
    abstract_arrays,
    find_checkpoint,
)
from effdet_jax.errors import UserError
from effdet_jax.evaluation.coco import METRICS
from effdet_jax.inference.load import read_initial_variables
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import abstract_variables, parameter_masks
from effdet_jax.run.initialize import checkpoint_parts
from effdet_jax.train import train
from effdet_jax.training.optimizer import create_optimizer
from effdet_jax.training.state import state_of
from tests.conftest import ROOT
from tests.doubles import make_folder
from tests.processes import ENVIRONMENT, TINY, rows, wait_for


def config_of(*arguments):
    """What a command makes of `--config=…` and its fields."""
    values, argv = flags.FlagValues(), ["train", *arguments]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    with mock.patch.object(sys, "argv", argv):  # Where the fields are looked for.
        values(argv)
    return holder.value


def everything(workdir):
    """All arrays of the last checkpoint, as numpy."""
    checkpoints = Checkpoints(workdir / LAST)
    model = Detector(checkpoints.metadata().spec)
    optimizer = create_optimizer("adamw", **parameter_masks(model))
    state = jax.eval_shape(lambda tree: state_of(tree, optimizer), abstract_variables(model))
    state = abstract_arrays(state, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    loaded = checkpoints.restore(**checkpoint_parts(state))
    checkpoints.close()
    return jax.device_get(loaded)


def test_a_run_from_start_to_end_and_what_it_leaves(trained):
    workdir, output = trained
    for part in (
        "devices    1 × cpu, mesh data 1 × fsdp 1 × spatial 1",
        "train      16 images",
        "classes    6: circle, rectangle, triangle",
        "model      efficientdet-lite0 at 64×64, 150,390 parameters, computing in float32",
        "batch      4 = 4 per device; 12 steps = 3.0 epochs of 4.0 steps; peak learning rate 0.00625",
        "compiling  the train step … ",
        "step 12/12  epoch 3.0  loss ",
        "evaluation after step 12",
        # Why its AP is next to nothing.
        "  - it is early: 4 steps",
        "AP on 16 training images 0.0",
    ):
        assert part in output
    written = rows(workdir)
    assert [row["step"] for row in written if "loss/total" in row] == [*range(1, 13)]
    assert [row["step"] for row in written if "eval/AP" in row] == [4, 8, 12]
    assert {"loss/total", "loss/class", "loss/box", "optim/learning_rate"} <= written[0].keys()
    assert {f"eval/{name}" for name in METRICS} <= written[-1].keys()
    parts = [written[-1][f"eval/loss/{part}"] for part in ("total", "class", "box")]
    assert parts[0] == pytest.approx(parts[1] + 50 * parts[2], rel=1e-4)
    assert f" weights, loss {parts[0]:.4f} (box {parts[2]:.4g}, class {parts[1]:.4g}):" in output
    board = EventAccumulator(str(workdir / "tensorboard"))
    board.Reload()
    assert len(board.Scalars("loss/total")) == 12 and len(board.Scalars("eval/loss/total")) == 3
    pictures = {"train_batch", "val_detections", "report/best", "report/worst", "report/random"}
    assert pictures <= set(board.Tags()["images"])
    assert "precision_by_recall/circle" in board.Tags()["tensors"]
    page = (workdir / "report.html").read_text("utf-8")
    assert "step 12 of 12" in page and "8 images evaluated" in page
    # 2 × 2 and 3 × 3 images of 64 px, enlarged to 256.
    assert Image.open(workdir / "train_batch.jpg").size == (512, 512)
    assert Image.open(workdir / "val_detections.jpg").size == (768, 768)
    metadata = Checkpoints(workdir / BEST).metadata()
    assert metadata.step in (4, 8, 12) and metadata.spec.name == "efficientdet-lite0"
    assert metadata.class_names.names[0] == "circle" and metadata.config["batch_size"] == 4
    assert json.loads((workdir / "config.json").read_text())["num_steps"] == 12


def test_the_same_command_again_has_nothing_to_do(run_command, trained):
    workdir, _ = trained
    status, output = run_command("train", *TINY, f"--workdir={workdir}")
    assert status == 0 and "nothing to do: " in output and "has trained 12 of 12 steps" in output


@pytest.mark.slow  # `run/test_best.py` has the rule.
def test_a_run_without_better_evaluations_ends_and_has_ended(run_command, tmp_path):
    """AP stays where it is at a rate of next to nothing: patience 1 ends the run, also again."""
    flags = ("--config.optim.learning_rate=1e-30", "--config.optim.warmup_init=0.0")
    flags += ("--config.optim.ema_decay=0.0", "--config.bn=frozen", "--config.eval.patience=1")
    flags += ("--config.checkpoint_every_minutes=0.0001", f"--workdir={tmp_path / 'run'}")
    status, output = run_command("train", *TINY, *flags)
    assert status == 0, output
    assert "stopped after step 8: no better AP in 1 evaluations (best 0.0" in output
    status, output = run_command("train", *TINY, *flags)
    assert status == 0 and "has trained 8 of 12 steps; no better AP in 1 evaluations" in output


@pytest.mark.slow  # `test_advice.py` has the configuration and the verdict.
def test_a_few_images_prove_the_set_up_and_leave_nothing(run_command, tmp_path):
    status, output = run_command("train", *TINY, "--overfit=4", TMPDIR=str(tmp_path))
    assert "on 4 images" in output.splitlines()[-1] and "step 100/100" in output
    assert status == ("set-up and data are right: AP" not in output)
    assert not list(tmp_path.iterdir())
    status, output = run_command("train", *TINY, "--overfit=4", f"--workdir={tmp_path}")
    assert status == 2 and "--overfit keeps nothing: leave --workdir out" in output


@pytest.mark.slow  # It compiles another step.
def test_without_validation_data_nothing_is_evaluated(run_command, tmp_path):
    make_folder(tmp_path)
    status, output = run_command(
        "train",
        *TINY,
        "--config.data.source=auto",
        f"--config.data.dir={tmp_path}",
        "--config.data.val_fraction=0",
        "--config.num_steps=1",
        f"--workdir={tmp_path}/run",
    )
    assert status == 0, output
    assert "val        none: nothing is evaluated, and the best checkpoint is the last" in output
    assert "evaluation" not in output and not Checkpoints(tmp_path / "run" / BEST).latest_step
    status, output = run_command("evaluate", f"--checkpoint={tmp_path}/run", "--split=train")
    assert status == 0 and "3 images, " in output


def test_evaluate_writes_results_with_the_original_ids(run_command, trained, tmp_path):
    workdir, _ = trained
    status, output = run_command(
        "evaluate", f"--checkpoint={workdir}", f"--output={tmp_path / 'out'}"
    )
    assert status == 0, output
    assert "8 images, 800 detections, loss " in output and "best F1" in output
    assert "circle" in output and "AP50       AR" in output
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {row["image_id"] for row in results} == set(range(8))
    assert {row["category_id"] for row in results} <= set(range(1, 9))
    # As the run itself evaluated its best.
    metrics = Checkpoints(workdir / BEST).metadata().metrics
    assert f"AP {metrics['eval/AP']:.3f}  AP50 {metrics['eval/AP50']:.3f}" in output
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers["summary"]["AP"] == pytest.approx(metrics["eval/AP"], abs=1e-6)
    assert numbers["score_threshold"] == metrics.get("eval/score_threshold")
    classes = (tmp_path / "out" / "classes.csv").read_text().splitlines()
    assert len(classes) == 7 and classes[1].startswith("circle,")


def test_predict_draws_and_lists_and_names_what_it_cannot_read(run_command, trained, tmp_path):
    workdir, _ = trained
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(64, 64), (50, 90)]):
        array = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
        Image.fromarray(array).save(images / f"{number}.png")
    (images / "2.jpg").write_bytes(b"no image")
    status, output = run_command(
        "predict",
        str(images),
        f"--checkpoint={workdir}",
        f"--output={tmp_path / 'found'}",
        "--score_threshold=0.005",
    )
    assert status == 1 and f"error: {images / '2.jpg'}: not an image of a known kind" in output
    found = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert {row["file_name"] for row in found} == {str(images / "0.png"), str(images / "1.png")}
    names = Checkpoints(workdir / BEST).metadata().class_names.names
    assert all(names[row["category_id"] - 1] == row["category_name"] for row in found)
    assert all(row["score"] >= 0.005 for row in found)
    assert Image.open(tmp_path / "found" / "1.jpg").size == (90, 50)
    assert sorted(path.name for path in images.iterdir()) == ["0.png", "1.png", "2.jpg"]


def test_a_workdir_of_another_model_or_class_list_is_refused(trained, tmp_path):
    workdir, _ = trained
    eight = (*TINY, "--config.batch_size=8")
    with pytest.raises(CheckpointError, match="holds another run.*fusion is fast against sum"):
        train(config_of(*eight, "--config.model.fusion=fast"), str(workdir))
    make_folder(tmp_path)
    data = (
        "--config.data.source=coco",
        f"--config.data.dir={tmp_path}",
        f"--config.data.val_json={tmp_path / 'train.json'}",
    )
    with pytest.raises(
        CheckpointError, match=r"2 classes \(dog, cat\) against 6 \(circle"
    ) as error:
        train(config_of(*eight, *data), str(workdir))
    assert "--config.init=" in str(error.value)


def test_killed_and_stopped_and_resumed_is_the_same_as_never_interrupted(
    start_command, trained, tmp_path
):
    whole, workdir = trained[0], tmp_path / "effdet_run"
    killed = start_command("train", *TINY, f"--workdir={workdir}")
    wait_for(lambda: (workdir / LAST / "4").is_dir() or killed.poll() is not None)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, "it ended before it could be killed"

    # The same command goes on, until it is asked to stop.
    stopped = start_command("train", *TINY, f"--workdir={workdir}")
    output = ""
    for line in stopped.stdout:
        if line.startswith("step ") and "\nstep " not in output:
            stopped.terminate()
        output += line
    assert stopped.wait(timeout=120) == 0, output
    assert "resuming   from step 4\n" in output or "resuming   from step 8\n" in output
    assert "the same command goes on from there" in output
    done = rows(workdir)[-1]["step"]
    assert f"stopped after step {done}" in output
    saved = Checkpoints(workdir / LAST).metadata()
    assert saved.step == done < 12
    # What the newest evaluation gave, before the resume, is still known.
    *_, newest = (row for row in rows(workdir) if "eval/AP" in row)
    aps = [newest["eval/averaged/AP"], newest["eval/raw/AP"]]
    assert saved.metrics["eval/AP"] == max(aps)
    for name in (*METRICS, "averaged/AP", "raw/AP"):
        assert saved.metrics[f"eval/{name}"] == newest[f"eval/{name}"]

    # And so does the notebook: all code cells, in order.
    cells = nbformat.read(ROOT / "launch" / "colab.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    code.append("assert 'jax' not in sys.modules, 'it may hold the device'")
    notebook_environment = {
        "EFFDET_JAX_SMOKE": " ".join(TINY[1:]),
        "EFFDET_JAX_STORAGE": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    notebook = subprocess.run(
        [sys.executable, "-c", "\n\n".join(code)],
        cwd=ROOT,
        env=ENVIRONMENT | notebook_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert notebook.returncode == 0, notebook.stdout + notebook.stderr
    assert f"resuming   from step {done}\n" in notebook.stdout
    assert "step     12  AP 0." in notebook.stdout and "scenes/2.png: " in notebook.stdout
    assert len(list((workdir / "found").glob("*.jpg"))) == 3
    assert rows(whole) == rows(workdir)
    jax.tree.map(np.testing.assert_array_equal, everything(whole), everything(workdir))


@pytest.mark.slow  # It compiles another step; `run/test_initialize.py` has the report.
def test_weights_of_another_class_list_start_a_run_and_nothing_is_written_to_the_data(
    run_command, trained, tmp_path
):
    workdir, _ = trained
    data = tmp_path / "data"
    data.mkdir()
    make_folder(data)
    before = {path: path.stat().st_mtime_ns for path in sorted(data.rglob("*"))}
    status, output = run_command(
        "train",
        "--config=configs/finetune.py",
        *TINY[1:6],
        "--config.batch_size=2",
        "--config.num_steps=1",
        f"--config.init={workdir}",
        f"--config.data.dir={data}",
        f"--config.data.val_json={data / 'train.json'}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert status == 0, output
    assert "train      3 images (0 without boxes), 3 boxes" in output
    assert "classes    2: dog, cat (ids 2 … 5)" in output
    assert "re-initialised 2: params/class_head/predict/pointwise/bias (54,) → (18,)" in output
    assert "unused 0" in output
    assert before == {path: path.stat().st_mtime_ns for path in sorted(data.rglob("*"))}
    model = Detector(Checkpoints(tmp_path / "run" / LAST).metadata().spec)
    given, tuned = (
        read_initial_variables(str(workdir), model)[0],
        read_initial_variables(str(tmp_path / "run"), model)[0],
    )
    kernel = [tree["params"]["backbone"]["stem_conv"]["kernel"] for tree in (given, tuned)]
    np.testing.assert_allclose(*kernel, atol=0.02)  # One step away.


@pytest.mark.slow  # `training/test_step.py` and `run/test_monitor.py` have the parts.
def test_steps_that_are_no_numbers_are_named_and_stop_the_run(run_command, trained, tmp_path):
    workdir, _ = trained
    best = find_checkpoint(workdir)
    variables, _ = read_initial_variables(str(workdir), Detector(best.metadata().spec))
    variables["params"]["class_head"]["predict"]["pointwise"]["bias"] = np.full(54, np.nan, "f4")
    broken = Checkpoints(tmp_path / "broken" / BEST)
    broken.save(best.metadata(), {"nothing": np.zeros(1)}, variables)
    broken.close()
    status, output = run_command(
        "train",
        *TINY,
        f"--workdir={tmp_path / 'run'}",
        f"--config.init={tmp_path / 'broken'}",
        "--config.max_bad_steps=3",
    )
    assert status == 2 and "Traceback" not in output
    assert "step 1 skipped: loss nan" in output and "Its images: shapes scene 0, shapes" in output
    assert "error: 3 steps in a row, up to step 3" in output and "--config.optim.lear" in output
    assert output.strip().endswith(" starts anew")


@pytest.mark.slow  # `run/test_divergence.py` has the rule.
def test_after_a_divergence_the_same_command_goes_on_with_a_lower_rate(run_command, tmp_path):
    flags = (*TINY, "--config.max_bad_steps=2", f"--workdir={tmp_path / 'run'}")
    status, output = run_command("train", *flags, "--config.num_steps=4")
    assert status == 0, output
    wild = ("--config.optim.learning_rate=1e30", "--config.checkpoint_every_epochs=0.25")
    status, output = run_command("train", *flags, *wild)
    assert status == 2 and "a quarter of the learning rate: the same command" in output
    assert output.strip().endswith("goes on from step 4")
    status, output = run_command("train", *flags, "--config.optim.learning_rate=0.001")
    assert status == 0 and "resuming   from step 4" in output and "skipped" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config.num_epochs=0", "--config.num_steps=0"), "zero steps to train"),
        (("--config.num_epochs=0.01", "--config.num_steps=0"), "are zero steps"),
        (("--config.model.image_size=16x32",), "config.model: image_size 16×32 can't be"),
        (("--config.data.source=coco",), "no data folder is given: --config.data.dir=FOLDER"),
        (("--config.data.source=coco", "--config.data.dir=nowhere"), "'nowhere' doesn't exist"),
        (("--config.init=nowhere",), "no such file or folder"),
        ((f"--config.init={ROOT}/README.md",), "README.md' isn't of a kind that is read here"),
        (
            ("--config.batch_size=4",),
            "batch_size 4 doesn't divide by the 8 devices; use 8: --config.batch_size=8",
        ),
    ],
)
def test_what_cannot_be_is_said(tmp_path, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        train(config_of(*TINY, "--config.batch_size=8", *arguments), str(tmp_path))


def test_data_that_cannot_be_used_leaves_no_workdir(tmp_path):
    arguments = ("--config.data.source=coco", "--config.data.dir=nowhere")
    with pytest.raises(UserError, match="'nowhere' doesn't exist"):
        train(config_of(*TINY, *arguments), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_written(run_command, tmp_path):
    (tmp_path / "file").write_text("")
    status, output = run_command("train", *TINY, f"--workdir={tmp_path / 'file' / 'run'}")
    assert status == 2 and "can't write into --workdir=" in output and "another folder" in output
    assert "Traceback" not in output


@pytest.mark.slow  # It compiles other steps; `detection/test_segment.py` and its like have the parts.
@pytest.mark.parametrize("objective", ["segment", "retina+segment"])
def test_masks_are_learned_measured_predicted_and_resumed_bit_for_bit(
    run_command, tmp_path, objective
):
    constant = "--config.optim.schedule=constant"  # It doesn't end where the run does.
    settings = (*TINY, f"--config.model.objective={objective}", constant)
    status, output = run_command("train", *settings, f"--workdir={tmp_path / 'whole'}")
    assert status == 0 and "mIoU 0." in output, output
    for steps in (6, 12):
        halves = (f"--config.num_steps={steps}", f"--workdir={tmp_path / 'halves'}")
        assert run_command("train", *settings, *halves)[0] == 0
    whole, halves = (everything(tmp_path / name) for name in ("whole", "halves"))
    jax.tree.map(np.testing.assert_array_equal, whole, halves)

    checkpoint = f"--checkpoint={tmp_path / 'whole'}"
    status, output = run_command("evaluate", checkpoint, f"--output={tmp_path / 'evaluated'}")
    assert status == 0 and "background" in output and "mIoU" in output, output
    Image.new("RGB", (50, 40)).save(tmp_path / "image.png")
    found = tmp_path / "found"
    status, output = run_command(
        "predict", str(tmp_path / "image.png"), checkpoint, f"--output={found}"
    )
    assert status == 0, output
    with Image.open(found / "masks" / "image.png") as mask:
        assert mask.size == (50, 40) and np.asarray(mask).max() <= 6
    status, output = run_command(
        "predict", str(tmp_path / "image.png"), checkpoint, f"--output={found}", "--tile=32"
    )
    assert status != 0 and "--tile is for boxes" in output
