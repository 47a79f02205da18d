import numpy as np
import pytest
from PIL import Image

from effdet_jax.data.voc import find_voc, open_voc, read_voc
from tests.conftest import shared
from tests.doubles import source_options

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{x}</xmin><ymin>6</ymin><xmax>24</xmax><ymax>16</ymax></bndbox></object>"
)


def make(
    root, *stems, xml="Annotations", images="JPEGImages", filename="", objects="", ending="png"
):
    """An image of 40×30 and its XML file per stem."""
    objects = objects or OBJECT.format(name="cat", difficult=0, x=5)
    for stem in stems:
        for folder in (xml, images):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / images / f"{stem}.{ending}")
        (root / xml / f"{stem}.xml").write_text(
            f"<annotation><filename>{filename or stem}</filename><size><width>40</width>"
            f"<height>30</height></size>{objects}</annotation>"
        )
    return root


def test_pixels_count_from_1_and_the_last_one_is_meant(tmp_path):
    make(tmp_path, "a", filename="elsewhere.jpg")
    parsed = read_voc(str(tmp_path), ["Annotations/a.xml"], "")
    (record,) = parsed.records
    assert (record.file_name, record.size) == ("a.png", (30, 40))
    assert record.annotations[0].box == (5, 4, 16, 24)  # x: pixels 5 … 24, 20 of them.
    assert parsed.class_names.names == ("cat",) and parsed.report.notes == []


def test_a_set_that_begins_at_0_means_edges(tmp_path):
    make(tmp_path, "a")
    make(tmp_path, "b", objects=OBJECT.format(name="cat", difficult=0, x=0))
    parsed = read_voc(str(tmp_path), ["Annotations/a.xml", "Annotations/b.xml"], "")
    assert [record.annotations[0].box for record in parsed.records] == [
        (6, 5, 16, 24),
        (6, 0, 16, 24),
    ]
    assert "coordinates begin at 0: xmin … xmax are taken as edges" in parsed.report.notes[0]


def test_difficult_objects_are_as_crowds(tmp_path):
    hard, easy = (OBJECT.format(name="dog", difficult=flag, x=5) for flag in (1, 0))
    make(tmp_path, "a", objects=hard + easy)
    parsed = read_voc(str(tmp_path), ["Annotations/a.xml"], "")
    assert [row.crowd for row in parsed.records[0].annotations] == [True, False]
    assert parsed.report.notes == ["1 difficult objects: not learned, ignored in evaluation"]


def test_what_cannot_be_read_is_named(tmp_path):
    make(tmp_path, *"abcdefghijklmnopqrstuvwxyz")
    (tmp_path / "Annotations/a.xml").write_text("<annotation><object>")
    bad = OBJECT.format(name="cat", difficult="maybe", x="left")
    make(tmp_path, "b", objects=bad)
    source = open_voc("train", source_options(dir=str(tmp_path), val_fraction=0.0))
    assert len(source) == 25 and source.report.dropped == {
        "XML file that can't be read": 1,
        "box that isn't four finite numbers": 1,
        "difficult that is neither 0 nor 1 (taken as 0)": 1,
    }


def stems(root, split):
    read = find_voc(str(root))[split]
    return sorted(record.file_name for record in read("").records)


def test_lists_of_the_devkit_make_the_splits(tmp_path):
    make(tmp_path, "a", "b", "c", images="JPEGImages")
    make(tmp_path, "a", xml="x", images="SegmentationClass")  # A mask of the image's name.
    (tmp_path / "x/a.xml").unlink()
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, text in (("train", "a\n"), ("val", "b\nc\n"), ("trainval", "a\nb\nc\n")):
        (lists / f"{name}.txt").write_text(text)
    (lists / "cat_train.txt").write_text("a 1\n")
    assert set(find_voc(str(tmp_path))) == {"train", "val"}
    assert stems(tmp_path, "train") == ["a.png"] and stems(tmp_path, "val") == ["b.png", "c.png"]
    (lists / "train.txt").unlink()
    assert stems(tmp_path, "train") == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("xml", "images"),
    [("annots", "images"), ("", ""), ("labels/xml", "pictures/all"), ("Annotations", "JPEGImages")],
)
def test_plain_folders_are_read(tmp_path, xml, images):
    make(tmp_path, "a.v1", "b", xml=xml, images=images)
    source = open_voc("train", source_options(dir=str(tmp_path), val_fraction=0.0))
    assert len(source) == 2 and source.report.dropped == {}
    np.testing.assert_array_equal(source[0].truth.boxes, [[5, 4, 16, 24]])


def test_folders_may_name_the_splits(tmp_path):
    """As Roboflow exports: images and XML files side by side."""
    for split in ("train", "valid"):
        make(tmp_path, f"{split}_jpg.rf.1f", xml=split, images=split, ending="jpg")
    assert stems(tmp_path, "train") == ["train/train_jpg.rf.1f.jpg"]
    assert stems(tmp_path, "val") == ["valid/valid_jpg.rf.1f.jpg"]


def test_other_xml_is_no_voc(tmp_path):
    (tmp_path / "pom.xml").write_text("<project></project>")
    assert find_voc(str(tmp_path)) == {} and find_voc(str(tmp_path / "pom.xml")) == {}


def test_bccd_as_published():
    """Its XML files and the COCO JSON that was made of them."""
    folder = shared("data/bccd/voc")
    options = source_options(dir=str(folder), train_images=str(folder.parent / "images"))
    source = open_voc("train", options | {"val_fraction": 0.0})
    assert source.class_names.names == ("Platelets", "RBC", "WBC")
