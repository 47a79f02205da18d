#!/usr/bin/env bash
# Runs a command on this machine's processor with glibc's allocator set for it; train if none is named.
#   launch/cpu.sh --config=configs/shapes.py --workdir=runs/shapes
#   launch/cpu.sh predict photo.jpg --checkpoint=runs/shapes --output=found
#   launch/cpu.sh evaluate --checkpoint=runs/shapes
#
# Memory comes in huge pages. predict and evaluate also keep what they free for the next image, some
# 0.3 GB for D0: its forward pass took 106 ms of processor time without either, 90 with huge pages, 78
# with both (512 pixels, two cores).
set -euo pipefail
command=train
case ${1-} in
  train | predict | evaluate)
    command=$1
    shift
    ;;
esac
tunables=glibc.malloc.hugetlb=1
if [[ $command != train ]]; then # Its compiler takes gigabytes, which would stay.
  tunables+=:glibc.malloc.mmap_max=0:glibc.malloc.top_pad=268435456
  tunables+=:glibc.malloc.trim_threshold=1099511627776
fi
export JAX_PLATFORMS=cpu GLIBC_TUNABLES=$tunables
exec python -m "effdet_jax.$command" "$@"
