import pytest

from effdet_jax.data.coco import find_coco
from effdet_jax.data.example import DataError
from effdet_jax.data.splits import by_split, draw, open_split, split_of
from tests.doubles import make_folder, source_options


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("instances_Train.json", "train"),
        ("trainval.txt", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("val_labels.csv", "val"),
        ("test/labels.json", "test"),
        ("train_and_val.json", ""),
        ("constraint.json", ""),
    ],
)
def test_a_split_by_the_words_of_its_path(path, split):
    assert split_of(path) == split


def test_files_that_name_no_split_are_training_data_if_nothing_else_is():
    assert by_split(["a.xml", "val/b.xml"]) == {"train": ["a.xml"], "val": ["val/b.xml"]}
    assert by_split(["a.xml", "train/b.xml"]) == {"train": ["train/b.xml"]}
    assert by_split(["train/test_1.xml"], by_folder=True) == {"train": ["train/test_1.xml"]}


def test_a_draw_depends_on_names_alone_and_has_the_share_asked_for():
    names = [f"{number}.png" for number in range(50)]
    drawn = draw(names, 0.1)
    assert len(drawn) == 5 and draw(reversed(names), 0.1) == drawn
    assert len(draw(names, 0.3)) == 15 and drawn < draw(names, 0.3)


def test_a_draw_leaves_and_takes_at_least_one():
    assert len(draw(["a", "b"], 0.01)) == 1 and len(draw(["a", "b"], 0.99)) == 1
    assert draw(["a"], 0.5) == set()


def test_copies_of_an_image_are_drawn_together():
    names = [f"p{number}_jpg.rf.{copy}abc.jpg" for number in range(10) for copy in range(3)]
    drawn = draw(names, 0.3)
    assert len(drawn) == 9 and len({name.split(".")[0] for name in drawn}) == 3


def open_coco(tmp_path, split, **changes):
    return open_split(find_coco, split, source_options(dir=str(tmp_path), **changes))


def test_validation_images_are_drawn_where_there_are_none(tmp_path):
    make_folder(tmp_path)
    train, val = (open_coco(tmp_path, split) for split in ("train", "val"))
    ids = [{truth.image_id for truth in source.ground_truth()} for source in (train, val)]
    assert len(train) == 2 and len(val) == 1 and ids[0] | ids[1] == {0, 1, 2}
    text = "no validation split: 1 of 3 images are drawn for it (--config.data.val_fraction=0.1)"
    assert train.report.notes[1] == val.report.notes[1] == text


def test_none_are_drawn_if_none_are_asked_for(tmp_path):
    make_folder(tmp_path)
    assert open_coco(tmp_path, "val", val_fraction=0.0) is None
    assert len(open_coco(tmp_path, "train", val_fraction=0.0)) == 3


def test_a_test_split_is_taken_for_validation_and_that_is_said(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "test.json").write_bytes((tmp_path / "train.json").read_bytes())
    assert len(open_coco(tmp_path, "train")) == 3
    val = open_coco(tmp_path, "val")
    assert val.report.notes[1] == "no split is named val: test is taken for it"


def test_what_was_taken_for_what_is_said(tmp_path):
    make_folder(tmp_path)
    notes = open_coco(tmp_path, "train").report.notes
    assert notes[0] == f"COCO JSON {tmp_path}/train.json, images in {tmp_path}/images"


def test_a_validation_split_may_have_no_boxes(tmp_path):
    content = make_folder(tmp_path)
    make_folder(tmp_path, annotations=[])
    (tmp_path / "train.json").rename(tmp_path / "val.json")
    make_folder(tmp_path, annotations=content["annotations"])
    assert open_coco(tmp_path, "val").report.empty == 3
    (tmp_path / "val.json").rename(tmp_path / "train.json")
    with pytest.raises(DataError, match="none of its 2 images has a usable box"):
        open_coco(tmp_path, "train")


def test_annotations_may_be_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train.json").rename(tmp_path / "mine.json")
    named = {"val_json": str(tmp_path / "mine.json"), "val_images": str(tmp_path / "images")}
    assert len(open_split(find_coco, "val", source_options(**named))) == 3
    with pytest.raises(DataError, match=r"there is no annotation file '.*gone.json'"):
        open_coco(tmp_path, "train", train_json=str(tmp_path / "gone.json"))


def test_where_nothing_is_found_it_says_what_is_there(tmp_path):
    with pytest.raises(DataError, match="no data folder is given: --config.data.dir=FOLDER"):
        open_split(find_coco, "train", source_options())
    with pytest.raises(DataError, match="data folder '.*gone' doesn't exist"):
        open_coco(tmp_path / "gone", "train")
    (tmp_path / "a.docx").touch()
    with pytest.raises(DataError, match=r"It holds 1 × .docx.*--config.data.train_json="):
        open_coco(tmp_path, "train")
    make_folder(tmp_path)
    (tmp_path / "train.json").rename(tmp_path / "val.json")
    with pytest.raises(DataError, match="has val annotations but none for training"):
        open_coco(tmp_path, "train")
