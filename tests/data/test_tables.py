import numpy as np
import pytest
from PIL import Image

from effdet_jax.data.example import DataError
from effdet_jax.data.tables import find_tables, open_tables, read_rows
from tests.doubles import source_options

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / name)
    return root


def opened(root, split="train", **changes):
    return open_tables(split, source_options(dir=str(root), val_fraction=0.0) | changes)


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "0.png,40,30,cat,4,6,24,16\n",
        "image_path;x;y;w;h;label\nimages/0.png;4;6;20;10;cat\n",
        "Image ID,XMin,XMax,YMin,YMax,LabelName\n0,0.1,0.6,0.2,0.53333333,cat\n",  # Open Images.
        'image_id,width,height,bbox,class\n0,40,30,"[4.0, 6.0, 20.0, 10.0]",cat\n',
        "images/0.png,4,6,24,16,cat\n",  # keras-retinanet.
        "TRAIN,gs://bucket/0.png,cat,0.1,0.2,,,0.6,0.53333333,,\n",  # Google AutoML.
        "file\tx1\ty1\tx2\ty2\tname\n0.png\t4\t6\t24\t16\tcat\n",
    ],
)
def test_columns_are_known_by_their_names_or_their_order(tmp_path, text):
    make(tmp_path, "images/0.png")
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-8-sig")
    source = opened(tmp_path)
    np.testing.assert_allclose(source[0].truth.boxes, [[6, 4, 16, 24]], atol=1e-5)
    assert source.class_names.names == ("cat",) and source.report.dropped == {}
    assert source[0].truth.size == (30, 40)


def test_an_image_has_all_its_rows_or_none(tmp_path):
    make(tmp_path, "0.png", "1.png")
    rows = "0.png,4,6,24,16,dog\n0.png,1,1,9,9,cat\n1.png,,,,,\n"
    (tmp_path / "annotations.csv").write_text(rows)
    (tmp_path / "classes.csv").write_text("cat,0\ndog,1\n")
    source = opened(tmp_path)
    assert (len(source), source.report.boxes, source.report.empty) == (2, 2, 1)
    assert source.class_names.names == ("cat", "dog") and source[0].truth.labels.tolist() == [1, 0]


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    make(tmp_path, "0.png")
    (tmp_path / "a.csv").write_text("".join(f"0.png,4,6,24,16,{label}\n" for label in (10, 9, 0)))
    assert opened(tmp_path).class_names.names == ("0", "9", "10")


def test_a_table_without_classes_has_one(tmp_path):
    make(tmp_path, "0.png")
    (tmp_path / "a.csv").write_text("file,x1,y1,x2,y2\n0.png,4,6,24,16\n")
    assert opened(tmp_path).class_names.names == ("object",)


def test_bad_rows_are_named(tmp_path):
    make(tmp_path, "0.png")
    rows = "0.png,40,30,cat,4,6,24,16\n0.png,40,30,cat,4,six,24,16\n,40,30,cat,4,6,24,16\n"
    (tmp_path / "a.csv").write_text(HEADER + rows)
    source = opened(tmp_path)
    assert source.report.dropped == {
        "box that isn't four finite numbers": 1,
        "row without a file": 1,
    }
    assert any("line 3: ['4', 'six', '24', '16']" in line for line in source.report.lines())
    assert any("a.csv: line 4" in line for line in source.report.lines())


def test_splits_by_file(tmp_path):
    make(tmp_path, "images/0.png", "images/1.png")
    for number, split in enumerate(("train", "test")):
        row = f"{number}.png,40,30,cat,4,6,24,16\n"
        (tmp_path / f"{split}_labels.csv").write_text(HEADER + row)
    assert set(find_tables(str(tmp_path))) == {"train", "test"}
    val = opened(tmp_path, "val")
    assert val.describe(0) == "image 1.png '1.png'"
    assert "no split is named val: test is taken for it" in val.report.notes


def test_splits_by_column(tmp_path):
    make(tmp_path, "0.png", "1.png")
    rows = "file,x1,y1,x2,y2,label,split\n0.png,4,6,24,16,cat,train\n1.png,4,6,24,16,dog,valid\n"
    (tmp_path / "a.csv").write_text(rows)
    for split, name in (("train", "0.png"), ("val", "1.png")):
        source = opened(tmp_path / "a.csv", split)
        assert source.describe(0) == f"image {name} '{name}'" and len(source) == 1
        assert source.class_names.names == ("cat", "dog")


def test_what_is_no_table_of_boxes(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5\n")
    assert find_tables(str(tmp_path)) == {} and find_tables(str(tmp_path / "metrics.csv")) == {}
    with pytest.raises(DataError, match="no table of boxes: it begins with step, loss"):
        read_rows(str(tmp_path / "metrics.csv"))
