import pytest

from effdet_jax.model.efficientnet import block_specs, round_features, stem_features


@pytest.mark.parametrize(
    ("features", "width", "expected"),
    [(32, 1.0, 32), (16, 1.1, 16), (32, 1.4, 48), (40, 0.25, 16), (320, 2.0, 640)],
)
def test_channels_are_multiples_of_eight_not_far_below(features, width, expected):
    # 40 · 0.25 = 10 rounds to 8, which is below 9: one step up.
    assert round_features(features, width) == expected


def test_b0_is_the_papers_table():
    blocks = block_specs("efficientnet-b0")
    assert len(blocks) == 16 and stem_features("efficientnet-b0") == 32
    assert [block.out_features for block in blocks] == (
        [16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320]
    )
    assert [n for n, block in enumerate(blocks) if block.stride == 2] == [1, 3, 5, 11]
    assert (blocks[0].expansion, blocks[1].expansion, blocks[3].kernel_size) == (1, 6, 5)


def test_lite_keeps_its_ends():
    # B4: 1.8 times as many blocks everywhere; Lite4: not in the first and last stage.
    stages = [[b.stage for b in block_specs(f"efficientnet-{name}")] for name in ("b4", "lite4")]
    assert [stages[0].count(stage) for stage in range(7)] == [2, 4, 4, 6, 6, 8, 2]
    assert [stages[1].count(stage) for stage in range(7)] == [1, 4, 4, 6, 6, 8, 1]
    assert (stem_features("efficientnet-b4"), stem_features("efficientnet-lite4")) == (48, 32)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="'efficientnet-b9' is unknown; there are efficientnet-b0"):
        block_specs("efficientnet-b9")
