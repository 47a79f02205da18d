#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any number of hosts, from your own machine.
#
#   export TPU_NAME=effdet TPU_ZONE=europe-west4-b
#   export TPU_TYPE=v5litepod-16 TPU_VERSION=v2-alpha-tpuv5-lite
#   export TPU_SHARE=10.0.0.2:/share   # An NFS export (Filestore), which you can write to.
#   export TPU_SPOT=1                  # If it may be preempted.
#
#   launch/tpu_vm.sh create            # Queues a request, waits for it, then does `install`.
#   launch/tpu_vm.sh run --config=configs/d0.py --config.data.dir=/mnt/share/coco \
#       --workdir=/mnt/share/runs/d0   # Starts it on every host; it outlives the connection.
#   launch/tpu_vm.sh logs              # Follows the first host's.
#   launch/tpu_vm.sh status            # The slice's state and every host's last line.
#   launch/tpu_vm.sh stop              # Saves, and ends the run on every host.
#   launch/tpu_vm.sh resume --config=… --workdir=…   # After preemption: create, then `run` again.
#   launch/tpu_vm.sh delete
#
# With --dry-run before the word it prints the commands and runs none of them.
#
# `install` mounts TPU_SHARE at /mnt/share, copies this project to every host and installs it with
# jax[tpu] there, into ~/effdet_jax/.venv (from PyPI; Python 3.12 by uv, for the images have 3.10).
# Again after a change of the code. The workdir must be below /mnt/share: all hosts write to it, and
# it is what is left after a preemption. Checkpoints can't be written to gs://.
#
# Needs bash 4.4 and gcloud, logged in, with a project; for several hosts first
# `ssh-add ~/.ssh/google_compute_engine`.
set -euo pipefail

MOUNT=/mnt/share

fail() {
  echo "error: $*" >&2
  exit 2
}

run() { # Runs a command, or prints it, quoted for a shell.
  if [[ -z $dry_run ]]; then
    "$@"
    return
  fi
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line# }"
}

on_hosts() { # on_hosts all|0 COMMAND
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$TPU_ZONE" --worker="$1" --command="$2"
}

state() {
  run gcloud compute tpus queued-resources describe "$TPU_NAME" --zone="$TPU_ZONE" \
    --format='value(state.state)'
}

wait_until_active() {
  if [[ -n $dry_run ]]; then
    echo '# every half a minute, until it says ACTIVE:'
    state
    return
  fi
  local now
  while now=$(state) && [[ $now != ACTIVE ]]; do
    case $now in
      FAILED | SUSPENDING | SUSPENDED) fail "the request for $TPU_NAME is $now" ;;
    esac
    echo "$TPU_NAME is $now"
    sleep 30
  done
  [[ $now == ACTIVE ]]
}

create() {
  run gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
    --zone="$TPU_ZONE" --accelerator-type="${TPU_TYPE:?such as v5litepod-16}" \
    --runtime-version="${TPU_VERSION:?such as v2-alpha-tpuv5-lite}" ${TPU_SPOT:+--spot}
  wait_until_active
  install
}

install() {
  local share
  printf -v share '%q' "${TPU_SHARE:?an NFS export such as 10.0.0.2:/share}"
  on_hosts all "sudo apt-get -o DPkg::Lock::Timeout=300 -qq update \
&& sudo apt-get -o DPkg::Lock::Timeout=300 -qq install -y nfs-common \
&& sudo mkdir -p $MOUNT && { mountpoint -q $MOUNT || sudo mount -t nfs $share $MOUNT; } \
&& mkdir -p effdet_jax"
  run gcloud compute tpus tpu-vm scp --recurse --zone="$TPU_ZONE" --worker=all \
    effdet_jax configs pyproject.toml README.md LICENSE "$TPU_NAME:effdet_jax/"
  on_hosts all "cd effdet_jax && python3 -m pip install -q --user uv \
&& python3 -m uv venv -q --allow-existing --python=3.12 .venv \
&& python3 -m uv pip install -q --python=.venv 'jax[tpu]' -e ."
}

train() {
  local command
  printf -v command ' %q' .venv/bin/python -m effdet_jax.train "$@"
  on_hosts all "set -e; cd effdet_jax; \
if ! mountpoint -q $MOUNT; then echo 'error: nothing at $MOUNT: launch/tpu_vm.sh install' >&2; exit 1; fi; \
if kill -0 \"\$(cat train.pid 2>/dev/null)\" 2>/dev/null; then echo 'error: it trains already' >&2; exit 1; fi; \
nohup$command </dev/null >>train.log 2>&1 & echo \$! >train.pid"
}

resume() {
  local now=SUSPENDED
  if [[ -n $dry_run ]]; then
    echo '# if this says SUSPENDED or FAILED, all that follows; if ACTIVE, the last command only:'
    state
  else
    now=$(state)
  fi
  case $now in
    ACTIVE) ;;
    SUSPENDED | FAILED)
      run gcloud compute tpus queued-resources delete "$TPU_NAME" --zone="$TPU_ZONE" --force --quiet
      create
      ;;
    *) fail "$TPU_NAME is $now; try again when it is ACTIVE or SUSPENDED" ;;
  esac
  train "$@"
}

check_workdir() {
  local argument
  for argument in "$@"; do
    if [[ $argument == --workdir=$MOUNT/?* ]]; then return; fi
  done
  fail "--workdir=$MOUNT/… is missing: a folder on TPU_SHARE, which all hosts see"
}

dry_run=
if [[ ${1-} == --dry-run ]]; then
  dry_run=1
  shift
fi
word=${1-}
if (($#)); then shift; fi
case $word in
  create | install | run | logs | status | stop | resume | delete) ;;
  *) fail "create, install, run, logs, status, stop, resume or delete; see the head of $0" ;;
esac
: "${TPU_NAME:?a name for the slice}" "${TPU_ZONE:?such as europe-west4-b}"
case $word in
  run | resume) check_workdir "$@" ;;
  *) if (($#)); then fail "$word takes no arguments: $*"; fi ;;
esac
cd "$(dirname "$0")/.."

case $word in
  create) create ;;
  install) install ;;
  run) train "$@" ;;
  logs) on_hosts 0 'tail -n +1 -F effdet_jax/train.log' ;;
  status)
    state
    on_hosts all 'tail -n 1 effdet_jax/train.log'
    ;;
  stop) on_hosts all "kill -TERM \"\$(cat effdet_jax/train.pid)\"" ;;
  resume) resume "$@" ;;
  delete)
    run gcloud compute tpus queued-resources delete "$TPU_NAME" --zone="$TPU_ZONE" --force
    ;;
esac
