#!/usr/bin/env bash
# A TPU pod as a queued resource of Google Cloud: makes it, installs this repository on every worker, runs a program
# there, runs it again when it was interrupted, and removes the pod.
#
#   tpu_vm.sh create --name=N --zone=Z --type=v5litepod-256 [--spot] ...    makes the pod and waits until it is there
#   tpu_vm.sh setup  --name=N --zone=Z [--ref=COMMIT] [--data=gs://...]     code, environment, records, on all workers
#   tpu_vm.sh launch --name=N --zone=Z [--keep ...] -- python -m uniemox_jax.pretrain --multihost --config=... --workdir=gs://...
#   tpu_vm.sh status|stop|delete --name=N --zone=Z
#   tpu_vm.sh logs   --name=N --zone=Z [--worker=I] [--lines=L] [--follow]
#
# Keep the flags in an array; a subcommand overlooks those of the others:
#   pod=(--name=emo --zone=us-west4-a --type=v5litepod-256 --spot); tpu_scripts/tpu_vm.sh create "${pod[@]}"
#
# launch starts the program on every worker and returns; it goes on without you. With --keep it stays, and THIS machine
# must stay on: when every worker has ended with 75, 137 or 143 ("run me again") it starts the program again, and a pod that
# was pre-empted (SUSPENDED, FAILED) it deletes, makes anew, sets up and starts. It ends with 0 when all workers have;
# with another code when one has, which it names, with that worker's last lines; with 75 after stop, or when --restarts
# is used up. Ctrl-C ends the watching only: the same launch --keep takes it up again.
#
#   --project=P              gcloud's own default
#   --runtime_version=V      the one for JAX on that type
#   --spot                   cheaper, and taken away at any time
#   --valid_until=6h         give up queueing after so long
#   --service_account=EMAIL  which the workers act as: it needs the buckets
#   --internal_ip            no external addresses (setup needs the internet: have Cloud NAT)
#   --ref=COMMIT             what setup sends (HEAD); what is not committed stays here
#   --data=gs://BUCKET/DIR   setup copies these records to every worker: --config.data_dir=data
#   --restarts=K             at most so many restarts and re-creations together (100)
#   --grace_seconds=S        how long a worker may take to save and end (600)
#   --poll_seconds=S         between two looks (60)
#   --dry_run                print every command, run none; of launch --keep also those after a pre-emption
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

REMOTE=uniemox # below the home folder of every worker
name='' zone='' project='' type='' runtime_version='' spot='' valid_until='' service_account='' internal_ip=''
ref=HEAD data='' keep='' restarts=100 grace_seconds=600 poll_seconds=60 worker=0 lines=100 follow=''

on_workers() { # WHICH COMMAND: one line, which each worker's shell reads.
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --quiet --worker="$1" --command="$2" \
    --ssh-flag=-oConnectTimeout=30 --ssh-flag=-oServerAliveInterval=30 "${internal[@]}"
}

workers() { # What worker.sh is to do on each.
  on_workers all "$(quote bash "$REMOTE/code/tpu_scripts/worker.sh" "$@")"
}

pod_state() { # ASSUMED: a state of queued resources; NOT_FOUND; UNREACHABLE where gcloud has no answer.
  local answer
  if answer=$(ask "$1" gcloud compute tpus queued-resources describe "$name" "${place[@]}" --quiet \
    --format='value(state.state)' 2>&1); then
    printf '%s\n' "${answer##*$'\n'}"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo NOT_FOUND
  else
    printf '%s\n' "$answer" >&2
    echo UNREACHABLE
  fi
}

taken() { # Whether the pod is lost. A node can be gone while its queued resource still says ACTIVE.
  local node
  case $(pod_state ACTIVE) in
    SUSPENDING | SUSPENDED | FAILED) return 0 ;;
    ACTIVE)
      node=$(ask READY gcloud compute tpus tpu-vm describe "$name" "${place[@]}" --quiet --format='value(state)') || return
      [[ $node =~ ^(PREEMPTED|TERMINATED)$ ]]
      ;;
    *) return 1 ;;
  esac
}

runtime() {
  case $type in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

request() {
  local flags=(--accelerator-type="$type" --runtime-version="${runtime_version:-$(runtime)}")
  [[ ! $spot ]] || flags+=(--spot)
  [[ ! $valid_until ]] || flags+=(--valid-until-duration="$valid_until")
  [[ ! $service_account ]] || flags+=(--service-account="$service_account"
    --scopes=https://www.googleapis.com/auth/cloud-platform)
  [[ ! $internal_ip ]] || flags+=(--internal-ips)
  run gcloud compute tpus queued-resources create "$name" "${place[@]}" --quiet --node-id="$name" "${flags[@]}"
}

remove() { run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --quiet --force; }

create() { # Leaves the pod ACTIVE.
  local now before=''
  # What is being taken away can be removed only when it is gone; who watches outlasts a broken line.
  while now=$(pod_state NOT_FOUND) && [[ $now =~ ^(SUSPENDING|DELETING${keep:+|UNREACHABLE})$ ]]; do
    sleep "$poll_seconds"
  done
  case $now in
    UNREACHABLE) return 1 ;;
    SUSPENDED | FAILED)
      say "$name is $now: removing it"
      remove && request || return
      ;;
    NOT_FOUND) request || return ;;
  esac
  while now=$(pod_state ACTIVE) && [[ $now != ACTIVE ]]; do
    case $now in
      SUSPENDED | FAILED | NOT_FOUND)
        say "$name did not become ACTIVE but $now: gcloud compute tpus queued-resources describe says why"
        return 1
        ;;
    esac
    [[ $now == "$before" ]] || say "$name is $now; waiting for ACTIVE"
    before=$now
    sleep "$poll_seconds"
  done
}

setup() {
  local file=$scratch/uniemox_jax.tar install=(install) unpack
  [[ ! $data ]] || install+=("$data")
  # Not under a program that runs: it would load half of the new code.
  unpack="if [ -e $REMOTE/run/lock ] && ! flock --shared --nonblock $REMOTE/run/lock true; then"
  unpack+=" echo 'error: a program runs here: tpu_vm.sh stop ends it' >&2; exit 2; fi;"
  unpack+=" rm -rf $REMOTE/code && mkdir -p $REMOTE/code && tar -xf uniemox_jax.tar -C $REMOTE/code"
  archive "$ref" "$file" &&
    run gcloud compute tpus tpu-vm scp "$file" "$name:uniemox_jax.tar" "${place[@]}" --quiet --worker=all \
      --scp-flag=-oConnectTimeout=30 --scp-flag=-oServerAliveInterval=30 "${internal[@]}" &&
    on_workers all "$unpack" &&
    workers "${install[@]}"
}

judge() { # Reads the workers' status lines; says what they come to.
  local mark host what code running=0 done=0 again=0 lost=0 stopped=0 bad=''
  while read -r mark host what code; do
    [[ $mark == worker: ]] || continue
    case $what:$code in
      running:) running=$((running + 1)) ;;
      lost: | idle:) lost=$((lost + 1)) ;;
      *:0) done=$((done + 1)) ;;
      stopped:75 | stopped:143) stopped=$((stopped + 1)) ;;
      exited:75 | exited:137 | exited:143) again=$((again + 1)) ;;
      *) bad=${bad:-$code $host} ;;
    esac
  done
  # What fails beside a worker that is lost, fails because of it.
  if ((!lost)) && [[ $bad ]]; then
    echo "bad $bad"
  elif ((running)); then
    ((done + again + lost + stopped)) && echo mixed || echo running
  elif ((stopped)); then
    echo stopped
  elif ((again + lost)); then
    echo again
  elif ((done)); then
    echo 'done'
  else
    echo unreachable
  fi
}

spend() {
  ((restarts > 0)) || { say '--restarts is used up: the same command goes on'; return 1; }
  restarts=$((restarts - 1))
  say "$1 ($restarts more after this)"
}

rebuild() {
  until spend "$name was taken away: making it anew" || return; create && setup && workers again "${program[@]}"; do
    sleep "$poll_seconds"
  done
}

watch() {
  local answer verdict code host mixed_since=''
  while :; do
    verdict=unreachable
    if answer=$(workers status); then verdict=$(judge <<<"$answer"); fi
    [[ $verdict == mixed ]] || mixed_since=''
    case $verdict in
      done) say 'every worker has ended with 0'; return 0 ;;
      stopped) say 'stopped by the user: the same launch goes on'; return 75 ;;
      bad\ *)
        read -r _ code host <<<"$verdict"
        say "$host ended with code $code: ending the others"
        workers finish "$grace_seconds" || true
        workers failure "$lines" || true
        return "$code"
        ;;
      again)
        spend 'every worker has ended, not all are done: starting them again' || return 75
        workers again "${program[@]}" || true
        ;;
      mixed) # Some have ended. The others follow, or wait in vain for those.
        mixed_since=${mixed_since:-$SECONDS}
        ((SECONDS - mixed_since < grace_seconds)) || workers finish "$grace_seconds" || true
        ;;
      unreachable)
        if taken; then
          rebuild || return 75
        elif [[ $(pod_state ACTIVE) == NOT_FOUND ]]; then
          say "$name has been deleted: nothing left to watch"
          return 1
        fi
        ;;
    esac
    sleep "$poll_seconds"
  done
}

launch() {
  if [[ ! $keep ]]; then
    workers start "${program[@]}"
    [[ $dry_run ]] || say "started on every worker of $name; see tpu_vm.sh status and tpu_vm.sh logs --follow"
    return
  fi
  [[ $dry_run ]] || ref=$(commit "$ref") # what was launched is what a new pod gets, whatever is committed meanwhile
  trap 'say "no longer watching; the program goes on, and the same launch --keep takes it up again"; exit 130' INT TERM
  if taken; then
    rebuild || return 75
  else
    workers start "${program[@]}"
  fi
  if [[ $dry_run ]]; then
    workers status
    remove && request && pod_state ACTIVE >/dev/null && setup && workers again "${program[@]}"
  else
    watch
  fi
}

status() {
  local now
  now=$(pod_state ACTIVE)
  [[ $dry_run ]] || echo "$name: $now"
  [[ $now != ACTIVE ]] || workers status
}

subcommand=${1:-}
(($#)) && shift
[[ $subcommand =~ ^(create|setup|launch|status|logs|stop|delete)$ ]] || case $subcommand in
  --help | -h) usage ;;
  *) fail "'$subcommand' is no subcommand: create, setup, launch, status, logs, stop or delete (see tpu_vm.sh --help)" ;;
esac
parse_flags 'name zone project type runtime_version valid_until service_account ref data restarts grace_seconds
  poll_seconds worker lines' 'spot internal_ip keep follow' "$@"
need name zone
need_number 0 restarts grace_seconds poll_seconds worker lines
case $subcommand in
  create) need type ;;
  launch)
    [[ ! $keep ]] || need type
    need_pod_program
    ;;
esac
need_tool gcloud https://cloud.google.com/sdk/docs/install
place=(--zone="$zone" ${project:+"--project=$project"})
internal=(${internal_ip:+--internal-ip})
scratch_folder
case $subcommand in
  create | setup | launch | status) "$subcommand" ;;
  logs) on_workers "$worker" "$(quote bash "$REMOTE/code/tpu_scripts/worker.sh" log "$lines" ${follow:+follow})" ;;
  stop) workers stop "$grace_seconds" ;;
  delete) remove ;;
esac
