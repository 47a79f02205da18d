import pytest
from PIL import Image

from effdet_jax.data.auto import find_any, open_auto
from effdet_jax.data.example import DataError
from tests.doubles import make_folder, source_options

XML = (
    "<annotation><filename>0.png</filename><object><name>cat</name><bndbox><xmin>5</xmin>"
    "<ymin>7</ymin><xmax>24</xmax><ymax>16</ymax></bndbox></object></annotation>"
)
FILES = {
    "coco": None,  # What `make_folder` writes.
    "voc": ("annots/0.xml", XML),
    "yolo": ("labels/0.txt", "0 0.35 0.36666666666666664 0.5 0.3333333333333333\n"),
    "csv": ("boxes.csv", "images/0.png,4,6,24,16,cat\n"),
}
KINDS = {"coco": "COCO JSON", "voc": "1 Pascal VOC XML", "yolo": "1 YOLO label", "csv": "CSV "}


def make(root, kind):
    if kind == "coco":
        make_folder(root)
        return root
    name, text = FILES[kind]
    for folder in ((root / name).parent, root / "images"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    Image.new("RGB", (40, 30)).save(root / "images/0.png")
    return root


@pytest.mark.parametrize("kind", list(FILES))
def test_every_kind_is_found_by_itself(tmp_path, kind):
    options = source_options(dir=str(make(tmp_path, kind)), val_fraction=0.0)
    source = open_auto("train", options)
    assert source[0].truth.boxes.tolist() == [[6, 4, 16, 24]]
    assert source.report.notes[0].startswith(KINDS[kind])
    assert open_auto("val", options) is None


def test_training_data_of_any_kind_come_before_validation_data(tmp_path):
    make(tmp_path, "coco")
    (tmp_path / "train.json").rename(tmp_path / "val.json")
    make(tmp_path, "voc")
    assert set(find_any(str(tmp_path))) == {"train"}


def test_a_prepared_tfds_folder_is_opened_as_such(tmp_path):
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(DataError, match="can't open TFDS data"):
        open_auto("train", source_options(dir=str(tmp_path)))
