"""What `predict` does with files; `test_train.py` runs the command on a trained network."""

import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from effdet_jax import predict
from effdet_jax.checkpoint import BEST, Checkpoints, Metadata
from effdet_jax.classes import ClassNames
from effdet_jax.convert.folder import write_folder
from effdet_jax.detection.postprocess import Detections
from effdet_jax.files import DestinationError
from effdet_jax.inference.tta import TTA
from effdet_jax.inference.video import Video, VideoWriter
from effdet_jax.model.detector import Detector
from tests.conftest import ROOT
from tests.tiny import random_variables, tiny_spec

NAMES = ClassNames(("猫", "dog"), (1, 2))


class Stub:
    """A `Predictor` that finds on each image a box of 猫 with the score red / 255, at most 0.9.

    Args:
      interrupt: the call that Ctrl-C ends; none if 0.
    """

    interrupt, calls = 0, ()

    def __init__(self, model, variables, *, batch_size, score_threshold, tta, fusion):
        assert score_threshold == 0.0
        self.tta = TTA.parse(tta, fusion)
        self.model, self.class_names = model, NAMES
        Stub.batch_size, Stub.calls = batch_size, []

    def detect(self, images):
        Stub.calls = [*Stub.calls, len(images)]
        if len(Stub.calls) == Stub.interrupt:
            raise KeyboardInterrupt
        scores = np.array([[min(image[..., 0].max() / 255, 0.9), 0.95] for image in images])
        boxes = np.tile(np.float32([4, 5, 20, 25]), (len(images), 2, 1))
        valid = np.array([[True, False]] * len(images))
        return Detections(boxes, scores, np.zeros((len(images), 2), np.int32), valid)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A current folder with photos/a.jpg, a.png and day/a.jpg, a broken one and a text; `load` is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "a.png", "day/a.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (250, 0, 0)).save(path)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "notes.txt").write_text("x")
    monkeypatch.setattr(predict, "load", lambda *_, **__: (Detector(tiny_spec(), NAMES), {}))
    monkeypatch.setattr(predict, "Predictor", Stub)
    monkeypatch.setattr(Stub, "interrupt", 0)
    return tmp_path / "photos"


def run(*images, **changes):
    flags = {"checkpoint": "run", "output": "found", "kind": "coco", "score_threshold": None}
    flags |= {"dtype": None, "batch_size": 2, "pictures": True}
    return predict.main([str(image) for image in images], **(flags | changes))


def files(folder):
    paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def rows(folder):
    text = (pathlib.Path(folder) / "detections.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_files_of_equal_names_are_kept_apart_and_nothing_is_passed_over(photos, capsys):
    assert run("photos") == 1
    written = ["a.jpg.jpg", "a.png.jpg", "day/a.jpg"]
    assert files("found") == [
        *written[:2],
        "day/a.jpg",
        "detections.json",
        "detections.jsonl",
        "written_by_predict.txt",
    ]
    said = capsys.readouterr()
    assert "error: photos/broken.jpg: not an image of a known kind" in said.err
    assert "3 images: 3 detections\nskipped 1 files: photos/notes.txt\n" in said.out
    assert "not readable 1: photos/broken.jpg\n" in said.out
    assert "score_threshold 0.3: the checkpoint knows no better one" in said.out
    paths = ["photos/a.jpg", "photos/a.png", "photos/day/a.jpg"]
    assert [row["file_name"] for row in rows("found")] == paths
    found = json.loads((photos.parent / "found" / "detections.json").read_text())
    assert [row["image_id"] for row in found] == paths and found[0]["bbox"] == [5, 4, 20, 16]
    assert Stub.batch_size == 2 and Stub.calls == [2, 1]


def test_photographs_are_never_overwritten(photos):
    before = {name: (photos / name).read_bytes() for name in files(photos)}
    with pytest.raises(DestinationError, match="photos/broken.jpg' is one of the files to look at"):
        run("photos", output="photos")
    with pytest.raises(DestinationError, match="photos/a.jpg' exists and isn't in"):
        run("photos/a.png", output="photos")  # It would be drawn into a.jpg.
    assert {name: (photos / name).read_bytes() for name in files(photos)} == before
    assert run("photos/a.png") == run("photos/a.png") == 0  # Its own it does.


def test_ctrl_c_keeps_what_was_found_and_says_so(photos, monkeypatch, capsys):
    monkeypatch.setattr(Stub, "interrupt", 2)
    assert run("photos", output="found") == predict.INTERRUPTED
    assert "stopped by Ctrl-C at 2 of 4 files; what was found on them is in 'found'" in (
        capsys.readouterr().out
    )
    assert len(rows("found")) == 2
    assert len(json.loads((photos.parent / "found" / "detections.json").read_text())) == 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("yolo", ["classes.txt", "labels/a.jpg.txt", "labels/a.png.txt", "labels/day/a.txt"]),
        ("csv", ["detections.csv"]),
    ],
)
def test_formats_without_pictures(photos, kind, expected):
    run("photos", kind=kind, pictures=False)
    own = {"detections.jsonl", "written_by_predict.txt"}
    assert [name for name in files("found") if name not in own] == expected


def test_other_views_are_said_and_have_other_scores(photos, monkeypatch, capsys):
    knowing = Detector(tiny_spec(), NAMES, score_threshold=0.95)
    monkeypatch.setattr(predict, "load", lambda *_, **__: (knowing, {}))
    run("photos/a.png", tta="flip", fusion="nms")
    said = capsys.readouterr().out
    assert "tta 2 views of each image: 64×64 px, each also mirrored; joined by NMS\n" in said
    assert "best there in validation without other views; evaluate --tta=flip tells" in said


def test_a_classifier_shows_all_that_it_predicts():
    shown, why = predict.choose_threshold(None, Detector(tiny_spec(), NAMES, score_threshold=0.0))
    assert shown == 0.0 and why.startswith("all that is predicted is shown")


def test_the_threshold_is_the_one_of_the_checkpoint_unless_asked(photos, monkeypatch, capsys):
    knowing = Detector(tiny_spec(), NAMES, score_threshold=0.95)
    monkeypatch.setattr(predict, "load", lambda *_, **__: (knowing, {}))
    run("photos/a.png")
    said = capsys.readouterr().out
    assert "score_threshold 0.95: F1 was best there in validation" in said
    assert "photos/a.png: 0 detections; the best score was 0.9\n" in said
    assert said.endswith("the best score was 0.9 (photos/a.png): --score_threshold=0.5\n")
    run("photos/a.png", score_threshold=0.5)
    said = capsys.readouterr().out
    assert "score_threshold 0.5: as asked" in said and "a.png: 1 detections\n" in said


def test_a_video_is_drawn_into_a_video_with_times_in_the_rows(photos, capsys):
    with VideoWriter("photos/clip.mp4", (48, 64), 10.0) as writer:
        for number in range(5):
            writer.write(np.full((48, 64, 3), 40 * number, np.uint8), number / 10)
    (photos / "cut.avi").write_bytes(b"RIFF")
    status = run("photos/clip.mp4", "photos/cut.avi", "photos/a.png", kind="yolo")
    assert status == 1 and Stub.calls == [1, 2, 2, 1]
    said = capsys.readouterr()
    assert "photos/clip.mp4: 5 frames, 3 detections\n" in said.out  # Reds 80, 120 and 160 of 255.
    assert (
        "1 images, 1 videos of 5 frames: 4 detections\nnot readable 1: photos/cut.avi" in said.out
    )
    assert "error: 'photos/cut.avi' can't be opened as a video" in said.err
    drawn = Video("found/clip.mp4")
    assert (drawn.size, len(list(drawn))) == ((48, 64), 5)
    frames = [row for row in rows("found") if "frame" in row]
    assert [(row["frame"], row["seconds"]) for row in frames] == [
        (number, number / 10) for number in range(5)
    ]
    assert [len(row["detections"]) for row in frames] == [0, 0, 1, 1, 1]
    assert files("found/labels/clip.mp4") == [f"00000{number}.txt" for number in range(5)]
    assert run("photos/clip.mp4", kind="yolo") == 0  # Over its own.


def test_tiles_are_looked_at_one_by_one(photos):
    """40×30 in tiles of 30 with an overlap of 20 %: the whole and two tiles."""
    assert run("photos/a.png", tile=30, overlap=0.2) == 0
    assert Stub.calls == [3] and len(rows("found")[0]["detections"]) >= 1


@pytest.mark.parametrize(
    ("stored", "flag", "expected"),
    [
        ("bfloat16", None, jnp.bfloat16),  # As the run evaluated.
        ("bfloat16", "float32", jnp.float32),
        ("float32", None, jnp.float32),
    ],
)
def test_it_computes_as_the_run_evaluated_unless_asked(
    tmp_path, monkeypatch, stored, flag, expected
):
    spec = tiny_spec()
    checkpoints = Checkpoints(tmp_path / BEST)
    metadata = Metadata(spec, ClassNames(("a", "b"), (1, 2)), {}, dtype=stored)
    checkpoints.save(metadata, {"nothing": jnp.zeros(1)}, random_variables(Detector(spec)))
    checkpoints.close()
    image = tmp_path / "black.png"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(image)
    asked = []

    class Recorded(Stub):
        def __init__(self, model, variables, **options):
            asked.append(model)
            super().__init__(model, variables, **options)

    monkeypatch.setattr(predict, "Predictor", Recorded)
    status = run(image, checkpoint=str(tmp_path), output=str(tmp_path / "found"), dtype=flag)
    assert status == 0 and asked[0].dtype == expected
    assert Image.open(tmp_path / "found" / "black.jpg").size == (40, 30)
    assert (tmp_path / "found" / "detections.json").read_text() == "[]"


def test_a_terminal_that_prints_ascii_only_ends_no_run_and_files_are_utf_8(tmp_path):
    """The command itself: names of files and classes that the terminal can't print."""
    spec = tiny_spec()
    (tmp_path / "model").mkdir()
    write_folder(tmp_path / "model", spec, NAMES, random_variables(Detector(spec)), origin="Made.")
    Image.new("RGB", (40, 30)).save(tmp_path / "ü×.png")
    command = "effdet_jax.predict", "ü×.png", "--checkpoint=model", "--output=found"
    done = subprocess.run(
        [sys.executable, "-m", *command, "--format=csv", "--score_threshold=0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "??.png: 100 detections" in done.stdout and done.stderr == ""  # No bar: no terminal.
    table = (tmp_path / "found" / "detections.csv").read_text("utf-8")
    assert "ü×.png,40,30,猫," in table and (tmp_path / "found" / "ü×.jpg").exists()
    assert rows(tmp_path / "found")[0]["file_name"] == "ü×.png"


@pytest.mark.parametrize(
    ("terminal", "total", "shown"), [(True, 20, True), (True, 19, False), (False, 500, False)]
)
def test_a_bar_is_for_long_work_on_a_terminal(monkeypatch, terminal, total, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with predict._progress(total, "image") as bar:
        assert bar.disable is not shown
