#!/usr/bin/env bash
# Trains on GPU nodes under SLURM: one process per GPU; saved and requeued before the time is up.
#
#   sbatch launch/slurm.sh --config=configs/d0.py --config.data.dir=/shared/coco \
#       --workdir=/shared/runs/d0
#   sbatch --nodes=4 --ntasks-per-node=4 --gpus-per-node=4 launch/slurm.sh …   # Another shape.
#   launch/slurm.sh --dry-run --config=… --workdir=…   # Prints what the job would run.
#   scancel --signal=TERM JOB   # Saves and ends it; scancel alone leaves no time for that.
#
# From the project's folder, with its Python environment active, both on a disk that all nodes see,
# as the workdir is. As many tasks as GPUs per node: each process takes the one of its number, so
# every process must see all GPUs of its node (no --gpus-per-task, no --gpu-bind).
#SBATCH --job-name=effdet_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

dry_run=
if [[ ${1-} == --dry-run ]]; then
  dry_run=1
  shift
fi
for argument in "$@"; do
  if [[ $argument == --workdir=gs://* ]]; then
    echo "error: $argument: the workdir must be a folder that all nodes see" >&2
    exit 2
  fi
done
command=(srun --kill-on-bad-exit=1 python -m effdet_jax.train "$@")

if [[ -n $dry_run ]]; then
  printf '%q' "${command[0]}"
  printf ' %q' "${command[@]:1}"
  echo
  exit
fi
: "${SLURM_JOB_ID:?submit it: sbatch launch/slurm.sh --config=… --workdir=…}"
if [[ -n ${SLURM_CPUS_PER_TASK-} ]]; then
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun doesn't take it over from sbatch.
fi

# Five minutes before the time limit SLURM sends this script USR1. The processes are then sent TERM,
# at which they save and end. By scancel: srun answers a TERM of its own by killing them.
# Not trapped as TERM, because that is also how a job is cancelled, which is no wish to go on.
out_of_time=
trap 'out_of_time=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
"${command[@]}" &
status=0
wait "$!" || status=$?
if [[ -n $out_of_time ]]; then # The signal ended `wait`, not srun.
  status=0
  wait "$!" || status=$?
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
