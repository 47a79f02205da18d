#!/usr/bin/env bash
# Trains on Kubernetes as a JobSet: a TPU slice of GKE, or nodes with GPUs.
#
#   export JOB_NAME=effdet JOB_HOSTS=4
#   export JOB_IMAGE=…     # An image with this project in its working directory, and installed with
#                          # jax for the device: pip install 'jax[tpu]' -e . (or jax[cuda12]).
#   export JOB_CLAIM=share # A PersistentVolumeClaim, ReadWriteMany (Filestore, NFS): /mnt/share.
#
#   export TPU_ACCELERATOR=tpu-v5-lite-podslice TPU_TOPOLOGY=4x4 TPU_CHIPS=4   # Chips of one host.
#   launch/kubernetes.sh tpu --config=configs/d0.py --config.data.dir=/mnt/share/coco \
#       --workdir=/mnt/share/runs/d0
#
#   export JOB_GPUS=8      # Of one host; all are used by one process.
#   launch/kubernetes.sh gpu --config=… --workdir=…
#
#   launch/kubernetes.sh --dry-run tpu --config=… --workdir=…   # Prints the manifest.
#   kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=effdet,batch.kubernetes.io/job-completion-index=0
#   kubectl delete jobset effdet   # Saves and stops; the same command again goes on.
#
# The JobSet starts again by itself after a failure or a preemption, and the run goes on from its
# last checkpoint. What your cluster wants besides (spot nodes, a queue) goes into the two manifests
# beside this script.
#
# Needs bash 4.4, kubectl with the cluster as its context, and JobSet 0.6 in the cluster.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

fill() { # fill VARIABLE PATTERN EXAMPLE: puts a variable of the environment into the manifest.
  local value=${!1-} place="\${$1}"
  [[ $value =~ ^$2$ ]] || fail "$1='$value'; it must be like $3"
  manifest=${manifest//"$place"/"$value"}
}

json() { # The arguments as a JSON list, which is YAML too. Kubernetes reads $$ as $.
  local argument separator=
  printf '['
  for argument in "$@"; do
    [[ $argument != *[[:cntrl:]]* ]] || fail "a control character in the argument $argument"
    argument=${argument//\\/\\\\}
    argument=${argument//\"/\\\"}
    argument=${argument//\$/\$\$}
    printf '%s"%s"' "$separator" "$argument"
    separator=', '
  done
  printf ']'
}

dry_run=
if [[ ${1-} == --dry-run ]]; then
  dry_run=1
  shift
fi
kind=${1-}
case $kind in
  tpu | gpu) shift ;;
  *) fail "tpu or gpu; see the head of $0" ;;
esac
workdir=
for argument in "$@"; do
  if [[ $argument == --workdir=/mnt/share/?* ]]; then workdir=1; fi
done
[[ -n $workdir ]] || fail "--workdir=/mnt/share/… is missing: a folder on JOB_CLAIM, which all hosts see"

manifest=$(<"$(dirname "$0")/jobset_$kind.yaml")
fill JOB_NAME '[a-z]([a-z0-9-]{0,30}[a-z0-9])?' effdet
fill JOB_IMAGE '[A-Za-z0-9][A-Za-z0-9._/:@-]*' registry/effdet:1
fill JOB_CLAIM '[a-z0-9]([a-z0-9.-]*[a-z0-9])?' share
fill JOB_HOSTS '[1-9][0-9]*' 4
if [[ $kind == tpu ]]; then
  fill TPU_ACCELERATOR '[a-z0-9-]+' tpu-v5-lite-podslice
  fill TPU_TOPOLOGY '[0-9]+(x[0-9]+)+' 4x4
  fill TPU_CHIPS '[1-9][0-9]*' 4
else
  fill JOB_GPUS '[1-9][0-9]*' 8
fi
arguments=$(json "$@")
place="\${ARGUMENTS}"
manifest=${manifest//"$place"/"$arguments"}

if [[ -n $dry_run ]]; then
  echo '# kubectl create -f - with:'
  printf '%s\n' "$manifest"
else
  kubectl create -f - <<<"$manifest"
fi
