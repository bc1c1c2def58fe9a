#!/usr/bin/env bash
# One worker's side of tpu_vm.sh, which copies it there and calls it. It lives in FOLDER/code/tpu_scripts, and keeps
#
#   FOLDER/venv    the environment, from requirements-tpu.lock
#   FOLDER/data    records copied from a bucket
#   FOLDER/run     program (what runs), log, pid, code (how it ended), stopped (the user wanted that), lock (held while
#                  it runs, so neither a reboot nor a reused process id can pass for a running program)
#
#   worker.sh install [gs://BUCKET/RECORDS]
#   worker.sh start PROGRAM...      leaves it running; nothing to do where the same program runs already
#   worker.sh again PROGRAM...      the same, unless the user has stopped it
#   worker.sh status                one line: worker: HOST idle|running|lost|exited CODE|stopped CODE
#   worker.sh stop SECONDS          SIGTERM, then waits at most so long; it is not run again
#   worker.sh finish SECONDS        the same, for one whose fellows have ended: then SIGKILL, and it may run again
#   worker.sh log LINES [follow]
#   worker.sh failure LINES         the last lines, where it ended with a code other than 0, 75, 137 and 143
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
run=$home/run

state() {
  local held=true
  [[ -e $run/program ]] || { echo idle; return; }
  # The lock first: where it is free, the code has been written if it ever will be.
  if flock --shared --nonblock "$run/lock" true; then held=''; fi
  if [[ -e $run/code && -e $run/stopped ]]; then
    echo "stopped $(<"$run/code")"
  elif [[ -e $run/code ]]; then
    echo "exited $(<"$run/code")"
  elif [[ $held ]]; then
    echo running
  else
    echo lost
  fi
}

status() { echo "worker: $(hostname) $(state)"; }

install() {
  local lock=$home/code/tpu_scripts/requirements-tpu.lock python=$home/venv/bin/python
  # The images' own Python may be older than 3.11: uv brings one. The variable is for images that forbid --user.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user --constraint "$lock" uv
  python3 -m uv venv --quiet --allow-existing --python 3.11 "$home/venv"
  python3 -m uv pip sync --quiet --python "$python" "$lock"
  python3 -m uv pip install --quiet --python "$python" --no-deps "$home/code"
  if (($#)); then
    mkdir -p "$home/data"
    gcloud storage rsync --recursive "$1" "$home/data"
  fi
}

start() { # HOW PROGRAM...
  local how=$1 line
  shift
  line=$(quote "$@")
  [[ -x $home/venv/bin/python ]] || fail 'nothing is installed here: tpu_vm.sh setup does it'
  mkdir -p "$run"
  exec 9>>"$run/lock"
  if ! flock --wait 2 9; then
    [[ $(<"$run/program") == "$line" ]] ||
      fail "$(hostname) still runs $(<"$run/program"): tpu_vm.sh stop ends it"
    return
  fi
  [[ $how != again || ! -e $run/stopped ]] || return 0
  rm -f "$run/code" "$run/stopped" "$run/pid"
  printf '%s\n' "$line" >"$run/program"
  # It inherits the lock, and gives it up when it ends.
  setsid nohup bash "${BASH_SOURCE[0]}" supervise "$@" >>"$run/log" 2>&1 </dev/null &
}

supervise() {
  local code=0
  trap : TERM HUP # a machine that shuts down tells every process; this one stays to write the code
  cd "$home"
  export PATH=$home/venv/bin:$PATH PYTHONUNBUFFERED=1
  echo "--- $(date -u +%FT%TZ) $(quote "$@")"
  # shellcheck disable=SC2016 # the inner shell expands these: its pid becomes the program's
  bash -c 'echo $$ >"$0.new" && mv "$0.new" "$0" && exec "$@"' "$run/pid" "$@" 9>&- || code=$?
  echo "--- $(date -u +%FT%TZ) ended with code $code"
  echo "$code" >"$run/code.new" && mv "$run/code.new" "$run/code"
}

end() { # SECONDS: SIGTERM; whether it has ended in that time.
  local deadline=$((SECONDS + $1)) signalled=''
  while [[ $(state) == running ]]; do
    ((SECONDS < deadline)) || return
    if [[ ! $signalled && -e $run/pid ]]; then
      kill -TERM "$(<"$run/pid")" && signalled=true
    fi
    sleep 0.2
  done
}

finish() { # SECONDS: as end; then SIGKILL to all of it, which leaves it lost.
  end "$1" || kill -KILL -- "-$(ps --no-headers -o pgid -p "$(<"$run/pid")" | tr -d ' ')"
}

log() { # LINES [follow]
  [[ -e $run/log ]] || fail "no run has been started on $(hostname): tpu_vm.sh launch does it"
  if [[ ${2:-} && $(state) == running ]]; then
    tail --lines="$1" --follow --pid="$(<"$run/pid")" "$run/log"
  else
    tail --lines="$1" "$run/log"
  fi
}

failure() { # LINES
  if [[ $(state) =~ ^(exited|stopped)\ ([0-9]+)$ && ! ${BASH_REMATCH[2]} =~ ^(0|75|137|143)$ ]]; then
    status
    tail --lines="$1" "$run/log" | sed "s/^/[$(hostname)] /"
  fi
}

verb=${1:?which verb}
shift
case $verb in
  start | again) start "$verb" "$@" ;;
  stop)
    [[ ! -e $run/program ]] || touch "$run/stopped"
    end "$@" || fail "$(hostname) still runs after $1 seconds: wait longer with --grace_seconds"
    status
    ;;
  install | supervise | status | finish | log | failure) "$verb" "$@" ;;
  *) fail "worker.sh knows no '$verb'" ;;
esac
