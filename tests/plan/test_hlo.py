import pytest

from effdet_jax.plan.hlo import (
    Collective,
    estimated_cycles,
    memory_traffic,
    parse_collectives,
)

# Shortened lines as XLA prints them for TPU, CPU and GPU.
TEXT = """\
HloModule jit_step, is_scheduled=true

%add.clone (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[128])) -> (s32[], f32[128]) {
  %halo = (bf16[4,1,64,8]{3,2,1,0:T(8,128)(2,1)}, bf16[4,1,64,8]{3,2,1,0:T(8,128)(2,1)S(1)}, \
u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%rows), source_target_pairs={{0,1},{1,2}}
  %halo.done = bf16[4,1,64,8]{3,2,1,0} collective-permute-done(%halo)
  ROOT %next = (s32[], f32[128]) tuple(%i, %x)
}

%async (x: f32[16]) -> f32[4] {
  ROOT %scattered = f32[4]{0:T(128)} reduce-scatter(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, \
dimensions={0}, to_apply=%add.clone
}

ENTRY %main.1 (p0: f32[32]) -> f32[32] {
  %all-reduce.1 = f32[32]{0:T(128)S(1)} all-reduce(%p0), replica_groups=[2,4]<=[8], \
to_apply=%add.clone, metadata={op_name="all-gather(not one)"}
  %all-reduce.2 = (f32[10,3]{1,0}, bf16[7]{0}, /*index=2*/pred[]) all-reduce(%a, %b, %c), \
replica_groups=[2,4]<=[8], to_apply=%add.clone
  %gather = ((f32[2,8]{1,0}, s8[5]{0}), (f32[8,8]{1,0}, s8[20]{0})) all-gather-start(%k, %l), \
replica_groups={{0,1,2,3}}, dimensions={0}
  %gather.done = (f32[8,8]{1,0}, s8[20]{0}) all-gather-done(%gather)
  %loop = (s32[], f32[128]) while(%init), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %started = ((f32[16]), f32[4], u32[]) async-start(%y), calls=%async
  ROOT %use = f32[32]{0} add(%all-reduce.1, %all-reduce.1)
}
"""


def test_collectives_are_counted_and_summed():
    assert set(parse_collectives(TEXT)) == {
        # 32 floats; 30 floats, 7 of bfloat16, one bool.
        Collective("all-reduce", 4, 2, 4 * 32 + 4 * 30 + 2 * 7 + 1, 4 * 30 + 2 * 7 + 1),
        # The gathered arrays, not the pieces; the end of it is no second one.
        Collective("all-gather", 4, 1, 4 * 64 + 20, 4 * 64 + 20),
        # The whole array of four pieces.
        Collective("reduce-scatter", 4, 1, 4 * 4 * 4, 4 * 4 * 4),
        # Three rounds of the received rows.
        Collective("collective-permute", 0, 3, 3 * 2 * 4 * 64 * 8, 2 * 4 * 64 * 8),
    }


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3}}", 2),
        ("[2,4]<=[8]", 4),
        ("mesh['axis_0'=4,'axis_1'=2,'axis_2'=1] {'axis_1'}", 2),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}, use_global_device_ids=true", 8),
    ],
)
def test_groups_are_written_in_three_ways(groups, size):
    text = f"ENTRY %m (p: f32[8]) -> f32[8] {{\n  %r = f32[8]{{0}} all-reduce(%p), \
replica_groups={groups}, to_apply=%add\n}}\n"
    assert parse_collectives(text) == (Collective("all-reduce", size, 1, 32, 32),)


def test_loops_of_unknown_length_are_noted():
    text = TEXT.replace(', backend_config={"known_trip_count":{"n":"3"}}', "")
    (permute,) = [row for row in parse_collectives(text) if row.kind == "collective-permute"]
    assert permute == Collective(
        "collective-permute", 0, 1, 2 * 4 * 64 * 8, 2 * 4 * 64 * 8, looped=1
    )


@pytest.mark.parametrize("shape", ["f32[8]{0}", "(f32[4]{0}, f32[2,2]{1,0})"])
def test_without_groups_all_devices_exchange(shape):
    text = f"ENTRY %m (p: f32[8]) -> f32[8] {{\n  %r = {shape} all-reduce(%p), to_apply=%add\n}}\n"
    assert parse_collectives(text) == (Collective("all-reduce", 0, 1, 32, 32),)


TRAFFIC = """\
HloModule jit_step, is_scheduled=true

%fused (p: f32[8,128]) -> f32[8,128] {
  ROOT %inside = f32[8,128]{1,0:T(8,128)} multiply(%p, %p)
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%fused
  ROOT %next = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%i, %y)
}

ENTRY %main (p0: bf16[16,16,24], p1: f32[8,128]) -> f32[8,128] {
  %p0 = bf16[16,16,24]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %near = bf16[16,16,24]{2,1,0:T(8,128)(2,1)S(1)} fusion(%p0), kind=kLoop, calls=%f, \
backend_config={"window_config":{"estimated_cycles":"1500"}}
  %part = ((bf16[16,16,24]{2,1,0:T(8,128)(2,1)}), bf16[4,16,24]{2,1,0:T(8,128)(2,1)S(1)}, s32[]) \
async-start(%p0), calls=%slice
  %part.done = bf16[4,16,24]{2,1,0:T(8,128)(2,1)S(1)} async-done(%part)
  %back = (f32[8,128]{1,0}, f32[8,128]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%p1)
  %back.done = f32[8,128]{1,0} copy-done(%back)
  %init = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%zero, %back.done)
  %loop = (s32[], f32[8,128]{1,0:T(8,128)}) while(%init), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"9"}}
  %out = f32[8,128]{1,0:T(8,128)} copy(%p1), backend_config={"estimated_cycles":"500"}
}
"""


def test_traffic_is_what_goes_through_main_memory():
    padded = 2 * 16 * 16 * 128  # 24 channels fill the 128 lanes of a tile.
    expected = (
        padded  # %near reads p0; its result stays on the chip, and so does the copied part.
        + padded / 4
        + 2 * 4 * 8 * 128  # %back reads and writes,
        + 2 * 4 * 8 * 128 * 9  # nine rounds of %y, what is fused not at all,
        + 2 * 4 * 8 * 128  # %out.
    )
    assert memory_traffic(TRAFFIC) == expected
    assert memory_traffic(TRAFFIC.replace("S(1)", "S(3)")) == expected  # v4 has another memory.


def test_cycles_are_those_of_the_program():
    assert estimated_cycles(TRAFFIC) == 2000
