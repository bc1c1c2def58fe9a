#!/usr/bin/env bash
# A run on Google Kubernetes Engine, over xpk (pip install xpk==1.16.0): a cluster with a TPU slice, and a job that Kubernetes
# runs again when it was interrupted. No machine of yours need stay on.
#
#   gke.sh create --cluster=C --zone=Z --type=v5litepod-256 [--spot]     the cluster and its slice
#   gke.sh launch --cluster=C --zone=Z --type=v5litepod-256 --name=N -- python -m uniemox_jax.pretrain --multihost --config=... --workdir=gs://...
#   gke.sh status --cluster=C --zone=Z                                   the jobs of the cluster
#   gke.sh logs   --cluster=C --zone=Z --name=N [--lines=L] [--follow]   what its workers print
#   gke.sh stop   --cluster=C --zone=Z --name=N                          SIGTERM, time to save, then gone
#   gke.sh delete --cluster=C --zone=Z                                   the cluster
#
# The job starts again on code 75 ("run me again"), and on what a machine that goes away leaves (127 to 255), at most
# --restarts times; any other code ends it.
#
#   --project=P           gcloud's own default
#   --spot                cheaper, and taken away at any time: for create
#   --ref=COMMIT          what launch sends (HEAD); what is not committed stays here
#   --base_image=IMAGE    launch adds the code to it, and each start installs requirements-tpu.lock (python:3.11)
#   --image=IMAGE         an image of yours that has everything; nothing is sent or installed
#   --restarts=K          (100)
#   --grace_seconds=S     between SIGTERM and SIGKILL (120); Kubernetes grants spot machines less
#   --dry_run             print every command, run none
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster='' zone='' project='' type='' name='' spot='' ref=HEAD base_image=python:3.11 image=''
restarts=100 grace_seconds=120 lines=100 follow=''

create() {
  local capacity=(--on-demand)
  [[ ! $spot ]] || capacity=(--spot)
  run xpk cluster create "${place[@]}" --tpu-type="$type" "${capacity[@]}"
}

launch() {
  local code=$scratch/code source=(--docker-image="$image") line
  # exec: xpk hands SIGTERM to this one process.
  line="exec $(quote "${program[@]}")"
  if [[ ! $image ]]; then
    archive "$ref" "$scratch/uniemox_jax.tar"
    run mkdir "$code"
    run tar -xf "$scratch/uniemox_jax.tar" -C "$code"
    source=(--base-docker-image="$base_image" --script-dir="$code")
    line="python -m pip install --quiet -r tpu_scripts/requirements-tpu.lock &&\
 python -m pip install --quiet --no-deps . && $line"
  fi
  run xpk workload create "${place[@]}" --workload="$name" --tpu-type="$type" "${source[@]}" \
    --max-restarts="$restarts" --restart-on-exit-codes=75 --termination-grace-period-seconds="$grace_seconds" \
    --command="$line"
}

logs() {
  run gcloud container clusters get-credentials "$cluster" --location="${zone%-*}" ${project:+"--project=$project"}
  run kubectl logs --selector="xpk.google.com/workload=$name" --container=jax-tpu --prefix --max-log-requests=1000 \
    --tail="$lines" ${follow:+--follow}
}

subcommand=${1:-}
(($#)) && shift
[[ $subcommand =~ ^(create|launch|status|logs|stop|delete)$ ]] || case $subcommand in
  --help | -h) usage ;;
  *) fail "'$subcommand' is no subcommand: create, launch, status, logs, stop or delete (see gke.sh --help)" ;;
esac
parse_flags 'cluster zone project type name ref base_image image restarts grace_seconds lines' 'spot follow' "$@"
need cluster zone
need_number 0 restarts grace_seconds lines
case $subcommand in
  create) need type ;;
  launch)
    need type name
    need_pod_program
    ;;
  logs | stop) need name ;;
esac
if [[ $subcommand == logs ]]; then
  need_tool gcloud https://cloud.google.com/sdk/docs/install
  need_tool kubectl https://kubernetes.io/docs/tasks/tools
else
  need_tool xpk 'https://github.com/AI-Hypercomputer/xpk (pip install xpk==1.16.0)'
fi
place=(--cluster="$cluster" --zone="$zone" ${project:+"--project=$project"})
scratch_folder
case $subcommand in
  create | launch | logs) "$subcommand" ;;
  status) run xpk workload list "${place[@]}" ;;
  stop) run xpk workload delete "${place[@]}" --workload="$name" --force ;;
  delete) run xpk cluster delete "${place[@]}" --force ;;
esac
