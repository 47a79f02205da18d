import unicodedata

import pytest
from PIL import Image

from effdet_jax.data.locate import Locator, find_images, list_files


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    return root


@pytest.mark.parametrize(
    "name",
    [
        "images/a b.jpg",
        "./images/a b.jpg",
        r"images\a b.jpg",
        r"..\..\media\a b.jpg",
        "a%20b.jpg",
        "A B.JPG",
        "/data/upload/3/a b.jpg",
        r"C:\Users\me\a b.jpg",
        "/data/local-files/?d=media/a%20b.jpg",
        "http://host/a%20b.jpg?token=1",
        "a b",
    ],
)
def test_one_image_under_the_names_of_other_machines(tmp_path, name):
    found = Locator(str(make(tmp_path, "images/a b.jpg", "images/other.jpg"))).find(name)
    assert found is not None and (tmp_path / found).samefile(tmp_path / "images/a b.jpg")


def test_another_unicode_form_is_found(tmp_path):
    decomposed = unicodedata.normalize("NFD", "é.png")
    assert Locator(str(make(tmp_path, decomposed))).find("é.png") == decomposed


def test_a_base_name_must_be_the_only_one_or_share_more_of_its_path(tmp_path):
    files = Locator(str(make(tmp_path, "cam0/frame.jpg", "cam1/frame.jpg")))
    assert files.find("frame.jpg") is None
    assert files.find("/home/me/cam1/frame.jpg") == "cam1/frame.jpg"
    assert files.find("nothing.jpg") is None


def test_an_image_that_is_another_names_own_is_not_taken(tmp_path):
    files = Locator(str(make(tmp_path, "cam0/frame.jpg")))
    assert files.find_all(["cam0/frame.jpg", "cam1/frame.jpg"]) == {}
    assert files.find_all(["a/frame.jpg", "b/frame.jpg"]) == {}
    assert files.find_all(["a/frame.jpg"]) == {"a/frame.jpg": "cam0/frame.jpg"}


@pytest.mark.parametrize(
    ("annotations", "image", "folder"),
    [
        ("train.json", "images/1.png", "images"),
        ("train/_annotations.coco.json", "train/1.png", "train"),
        ("annotations/instances_train2017.json", "train2017/1.png", "train2017"),
        ("annotations/lvis_v1_train.json", "train2017/1.png", "train2017"),
        ("annotations/instances_Train.json", "images/Train/1.png", "images/Train"),
    ],
)
def test_the_folder_of_images_is_found(tmp_path, annotations, image, folder):
    make(tmp_path, image, "annotations/x.png")
    found = find_images(str(tmp_path / annotations), ["1.png"], ["train", "train2017"])
    assert (tmp_path / folder).samefile(found)
    elsewhere = find_images(str(tmp_path / annotations), [r"D:\me\1.png"], ["train", "train2017"])
    assert Locator(elsewhere).find("1.png")


def test_files_are_listed_by_ending_and_depth(tmp_path):
    make(tmp_path, "a.jpg", "x/b.JPG", "x/y/c.jpg", ".hidden/d.jpg", "e.png")
    assert list_files(str(tmp_path), (".jpg",)) == ["a.jpg", "x/b.JPG", "x/y/c.jpg"]
    assert list_files(str(tmp_path), (".jpg",), depth=1) == ["a.jpg", "x/b.JPG"]
