import os

import pytest

from effdet_jax.data.example import DataError
from effdet_jax.inference.inputs import Inputs, find_inputs
from effdet_jax.inference.outputs import WRITTEN


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Two cameras with files of equal names, one of them in a sub-folder, and what is no image."""
    monkeypatch.chdir(tmp_path)
    names = ("cam1/0001.jpg", "cam1/day/0001.jpg", "cam2/0001.JPG", "cam2/notes.txt")
    for name in (*names, "cam2/.hidden.jpg", "cam2/.cache/0001.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_a_folder_gives_all_below_it_and_names_what_it_skips(tree):
    found = find_inputs(["cam1"])
    assert found.paths == ("cam1/0001.jpg", "cam1/day/0001.jpg")
    assert found.names == ("0001.jpg", "day/0001.jpg") and found.skipped == ()
    found = find_inputs(["cam2"])
    assert found.paths == ("cam2/0001.JPG",) and found.skipped == ("cam2/notes.txt",)


def test_several_places_are_told_apart(tree):
    found = find_inputs(["cam1", str(tree / "cam2")])
    assert found.paths == ("cam1/0001.jpg", "cam1/day/0001.jpg", str(tree / "cam2/0001.JPG"))
    assert found.names == ("cam1/0001.jpg", "cam1/day/0001.jpg", "cam2/0001.JPG")
    assert find_inputs(["cam1/0001.jpg", "cam2/0001.JPG"]).names == (
        "cam1/0001.jpg",
        "cam2/0001.JPG",
    )


def test_patterns_and_files(tree):
    assert find_inputs(["cam*/*.jpg"]).names == ("0001.jpg",)
    assert find_inputs(["**/*.jpg"]).paths == ("cam1/0001.jpg", "cam1/day/0001.jpg")
    found = find_inputs(["cam2/*"])
    assert found.paths == ("cam2/0001.JPG",) and found.skipped == ("cam2/notes.txt",)
    assert find_inputs(["cam2/notes.txt"]).paths == ("cam2/notes.txt",)  # As asked.
    (tree / "a[1].jpg").write_bytes(b"")
    assert find_inputs(["a[1].jpg"]).names == ("a[1].jpg",)


def test_a_file_given_twice_is_one(tree):
    found = find_inputs(["cam1", "cam1/0001.jpg", "cam1/day"])
    assert found.paths == ("cam1/0001.jpg", "cam1/day/0001.jpg")


def test_what_predict_wrote_is_no_input(tree):
    (tree / "cam1" / WRITTEN).write_text("day/0001.jpg\n")
    found = find_inputs(["cam1"])
    assert found.paths == ("cam1/0001.jpg",)
    assert found.skipped == (os.path.join("cam1", WRITTEN), "cam1/day/0001.jpg")


def test_nothing_is_said(tree):
    (tree / "empty").mkdir()
    (tree / "text").mkdir()
    (tree / "text" / "a.txt").write_bytes(b"")
    for given, message in (
        ([], "no images given"),
        (["gone.jpg"], "no image 'gone.jpg': no such file, and no folder with images"),
        (["gone*.jpg"], "no image 'gone"),
        (["cam1", "empty"], "no image 'empty'"),
        (["text"], "no image 'text': of 1 files there none is one, such as text/a.txt"),
    ):
        with pytest.raises(DataError, match=message.replace("*", r"\*")):
            find_inputs(given)


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (("a.jpg", "b.png", "c/a.jpg"), ("a", "b", "c/a")),
        (("a.jpg", "a.png", "b.png"), ("a.jpg", "a.png", "b")),
        (("a.jpg", "A.png"), ("a.jpg", "A.png")),
        (("a.jpg", "a.png", "a.png.bmp"), ("a.jpg", "a.png", "a.png.bmp")),
    ],
)
def test_stems_are_all_different(names, stems):
    assert Inputs(names, names, ()).stems() == stems
