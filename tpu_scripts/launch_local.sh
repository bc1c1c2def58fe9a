#!/usr/bin/env bash
# Runs a program as one group of real processes on this machine, with emulated CPU devices.
#
#   launch_local.sh --processes=N [flags] -- python -m uniemox_jax.pretrain --config=... --workdir=...
#
#   --processes=N              how many; each learns its place from JAX_COORDINATOR_ADDRESS (a free port here),
#                              JAX_NUM_PROCESSES and JAX_PROCESS_ID
#   --devices_per_process=M    emulated devices of each (1)
#   --restarts=K               run the group again, at most K times, when it ended with 75, 137 or 143 (0)
#   --grace_seconds=S          when one failed, the others get SIGTERM, and S seconds later SIGKILL (30)
#   --dry_run                  print the commands, run none
#
# Each line of output begins with the rank: [0] ... SIGTERM and SIGINT (Ctrl-C) reach every process as SIGTERM, and the
# group is then not run again. Exit code: 0 where all ended with 0; 75 ("run me again") where some ended with 75 and
# the others with 0, 75 or 143; 143 where that is the only one beside 0; else that of the first to fail, such as 137 of one
# that was killed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

processes='' devices_per_process=1 restarts=0 grace_seconds=30
signalled=''
pids=() readers=()

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000)) # below the range from which the system takes ports for outgoing connections
    (exec 4<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%s\n' "$port"
}

prefix() { # Signals are for the processes: this ends when their output does.
  trap '' TERM INT
  local line
  while IFS= read -r line || [[ $line ]]; do
    printf '[%s] %s\n' "$1" "$line"
  done
}

tell() { # SIGNAL: to those that still run.
  local pid
  for pid in "${pids[@]}"; do
    kill -"$1" "$pid" 2>/dev/null || true
  done
}

start_group() {
  local rank port out err
  port=$(free_port)
  pids=() readers=()
  for ((rank = 0; rank < processes; rank++)); do
    local command=(env JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$rank"
      JAX_PLATFORMS=cpu
      XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices_per_process"
      PYTHONUNBUFFERED=1 "${program[@]}")
    if [[ $dry_run ]]; then
      run "${command[@]}"
      continue
    fi
    exec {out}> >(prefix "$rank")
    readers+=($!)
    exec {err}> >(prefix "$rank" >&2)
    readers+=($!)
    "${command[@]}" >&"$out" 2>&"$err" {out}>&- {err}>&- </dev/null &
    pids+=($!)
    exec {out}>&- {err}>&-
  done
}

wait_for_group() { # Sets $result, and ends the group once one has failed.
  local codes=() rank code first_bad='' kill_at='' left=${#pids[@]}
  while ((left)); do
    for rank in "${!pids[@]}"; do
      [[ ${codes[rank]:-} ]] || kill -0 "${pids[rank]}" 2>/dev/null || {
        code=0
        wait "${pids[rank]}" || code=$?
        codes[rank]=$code left=$((left - 1))
        if [[ ! $first_bad && ! $code =~ ^(0|75|143)$ ]]; then
          first_bad=$code kill_at=$((SECONDS + grace_seconds))
          say "process $rank ended with code $code; ending the others"
          tell TERM
        fi
      }
    done
    if [[ $kill_at ]] && ((left && SECONDS >= kill_at)); then
      tell KILL
    fi
    # Not in the foreground: there bash keeps a SIGINT to itself when the sleep ends without one.
    sleep 0.1 &
    wait "$!" || true
  done
  wait "${readers[@]}" || true
  result=0
  [[ " ${codes[*]} " != *' 143 '* ]] || result=143
  [[ " ${codes[*]} " != *' 75 '* ]] || result=75
  result=${first_bad:-$result}
}

parse_flags 'processes devices_per_process restarts grace_seconds' '' "$@"
need processes
need_number 1 processes devices_per_process
need_number 0 restarts grace_seconds
need_program

trap 'signalled=true; tell TERM' TERM INT
for ((again = 0; ; again++)); do
  start_group
  [[ ! $dry_run ]] || exit 0
  [[ ! $signalled ]] || tell TERM # it came while the processes were being started
  wait_for_group
  if [[ ! $result =~ ^(75|137|143)$ || $signalled ]] || ((again >= restarts)); then
    exit "$result"
  fi
  say "ended with code $result; running it again ($((again + 1)) of at most $restarts)"
done
