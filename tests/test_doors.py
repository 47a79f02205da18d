"""Parts from outside the package, read from docs/extending.md, through every command.

One run trains, evaluates, predicts, summarises and exports with all of them at once.
"""

import json
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

from effdet_jax import evaluate, predict, summary, train
from effdet_jax.checkpoint import LAST, Checkpoints
from effdet_jax.data.augment import AUGMENTATIONS
from effdet_jax.data.source import SOURCES
from effdet_jax.detection.objective import OBJECTIVES
from effdet_jax.export import __main__ as export
from effdet_jax.export.formats import FORMATS
from effdet_jax.inference.load import load
from effdet_jax.model.detector import BACKBONES
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.model.merge import MERGES
from tests.conftest import ROOT
from tests.tiny import tiny_config

TABLES = (AUGMENTATIONS, BACKBONES, FORMATS, MERGES, OBJECTIVES, PYRAMIDS, SOURCES)
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
PARTS = {
    "model.backbone": "plain",
    "model.pyramid": "top_down",
    "model.fusion": "largest",
    "model.objective": "cautious",
    "data.source": "rows",
    "augment.ops": ("flip", "mix", "scale_jitter"),
}


@pytest.fixture(scope="module", autouse=True)
def parts():
    """The page's code as one module, as `--import=my_parts` would run it; gone afterwards."""
    before = [dict(table) for table in TABLES]
    module = types.ModuleType("my_parts")
    sys.modules["my_parts"] = module  # Worker threads and dataclasses look it up.
    exec("\n\n".join(BLOCKS), module.__dict__)  # noqa: S102 (the page is ours)
    yield module
    del sys.modules["my_parts"]
    for table, entries in zip(TABLES, before):
        table.clear()
        table.update(entries)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight images of 64×64 with a bright square each, as the page's kind of data."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(8):
        top, left = (int(side) for side in rng.integers(0, 40, 2))
        image = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
        image[top : top + 20, left : left + 20] = 250
        Image.fromarray(image).save(folder / f"{number}.png")
        kind = ("cat", "dog")[number % 2]
        rows.append(f"{number}.png,{top},{left},{top + 20},{left + 20},{kind}")
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    """Two steps of training with all parts, by the command's own function."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny_config(
        batch_size=8, num_steps=2, log_every_steps=1, **PARTS, **{"data.dir": str(folder)}
    )
    train.train(config, str(workdir))
    return workdir


def test_the_page_has_a_part_for_every_door(parts):
    added = {"mix", "plain", ".here", "largest", "cautious", "top_down", "rows"}
    assert added == {name for table in TABLES for name in table if name in added}
    assert len(BLOCKS) == 6 and all(len(block.splitlines()) <= 24 for block in BLOCKS)


def test_the_checkpoint_holds_the_parts(workdir):
    checkpoints = Checkpoints(workdir / LAST)
    spec = checkpoints.metadata().spec
    checkpoints.close()
    assert (spec.backbone, spec.pyramid, spec.fusion, spec.objective) == (
        "plain", "top_down", "largest", "cautious",
    )  # fmt: skip
    model, variables = load(str(workdir))
    assert model.class_names.names == ("cat", "dog")
    # Two small steps from where the backbone's own initialiser put it.
    gamma = np.asarray(variables["params"]["backbone"]["gamma_3"])
    np.testing.assert_allclose(gamma, 0.1, atol=0.02)
    assert set(variables["params"]["pyramid"]["cell_0"]) == {f"P{n}_out" for n in range(3, 8)}


def test_every_part_of_the_loss_is_written(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    first = rows[0]
    assert first["loss/penalty"] > 0
    total = first["loss/class"] + 50 * first["loss/box"] + first["loss/penalty"]
    assert first["loss/total"] == pytest.approx(total, rel=1e-5)
    assert 0 <= rows[-1]["eval/AP"] <= 1


def test_evaluate_gives_what_the_run_gave(workdir, capsys):
    flags = dict.fromkeys(("config", "protocol", "nms", "dtype", "fusion"))
    flags |= {"curve": [], "tta": ""}
    evaluate.main(
        checkpoint=str(workdir), data_dir="", split="val", batch_size=8, output="", **flags
    )
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    assert f"AP {json.loads(rows[-1])['eval/AP']:.3f}" in capsys.readouterr().out


def test_predict_finds_with_them(workdir, folder, tmp_path):
    status = predict.main(
        [str(folder / "0.png")],
        checkpoint=str(workdir),
        output=str(tmp_path),
        kind="coco",
        score_threshold=0.0,
        batch_size=1,
        dtype=None,
        pictures=False,
    )
    rows = json.loads((tmp_path / "detections.json").read_text())
    assert status == 0 and {row["category_name"] for row in rows} <= {"cat", "dog"} and rows


def test_summary_counts_them(capsys):
    config = tiny_config(**{name: PARTS[name] for name in PARTS if name.startswith("model.")})
    summary.main(config, as_json=True, num_classes=2)
    report = json.loads(capsys.readouterr().out)
    # 64 px: 3×3 convolutions to 32², 16², 8², 4², 2² pixels.
    channels = (3, 8, 16, 24, 32, 40)
    adds = sum(9 * channels[n] * channels[n + 1] * (32 >> n) ** 2 for n in range(5))
    assert report["multiply_adds"]["backbone"] == adds


def test_export_writes_the_format_and_compares(workdir, tmp_path, capsys):
    out = tmp_path / "model.here"
    options = {"score_threshold": 0.0, "iou_threshold": 0.5, "max_detections": 20}
    assert export.main([str(workdir), str(out)], nms="hard", overwrite=False, **options) == 0
    assert out.exists() and "100.0%" in capsys.readouterr().out
