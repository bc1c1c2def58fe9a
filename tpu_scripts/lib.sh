# What the launchers share: flags, one line for a user's mistake, and commands that a dry run prints in place of running.
# shellcheck shell=bash

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash $BASH_VERSION is too old: 4.4 or newer is needed (macOS: brew install bash)" >&2
  exit 2
fi

dry_run=''
program=()

fail() { # A user's mistake: what is wrong and the remedy, in one line.
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }

usage() { # The comment at the head of the script is its help.
  awk 'NR > 1 && (!/^#/ || /^#SBATCH/) { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit 0
}

quote() { # Its arguments as one line that a POSIX shell reads back as the same arguments, in any locale.
  local word separator=''
  for word; do
    if [[ ! $word || $word == *[!A-Za-z0-9_@%+=:,./-]* ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    printf '%s%s' "$separator" "$word"
    separator=' '
  done
}

run() {
  if [[ $dry_run ]]; then
    quote "$@" >&3
    echo >&3
  else
    "$@"
  fi
}

ask() { # ASSUMED COMMAND...: what the command answers. A dry run prints it and assumes the answer.
  if [[ $dry_run ]]; then
    run "${@:2}"
    printf '%s\n' "$1"
  else
    "${@:2}"
  fi
}

parse_flags() { # VALUES SWITCHES ARGUMENT...: sets $name for --name=value and for --name; after -- comes the program.
  local values=" ${1//[[:space:]]/ } " switches=" $2 dry_run " argument flag # a name here hides the flag of that name
  shift 2
  while (($#)); do
    argument=$1 flag=${1#--}
    shift
    case $argument in
      --) program=("$@"); break ;;
      --help | -h) usage ;;
      --*=*)
        flag=${flag%%=*}
        [[ $switches != *" $flag "* ]] || fail "--$flag takes no value: write --$flag"
        [[ $values == *" $flag "* ]] || fail "unknown flag --$flag: see $(basename "$0") --help"
        printf -v "$flag" '%s' "${argument#*=}"
        ;;
      --*)
        [[ $values != *" $flag "* ]] || fail "--$flag has no value: write --$flag=VALUE"
        [[ $switches == *" $flag "* ]] || fail "unknown flag --$flag: see $(basename "$0") --help"
        printf -v "$flag" true
        ;;
      *) fail "unexpected argument '$argument': flags are --name=value, and a program comes after --" ;;
    esac
  done
}

need() { # Flags that this subcommand cannot do without.
  local flag
  for flag; do
    [[ ${!flag} ]] || fail "--$flag is missing: add --$flag=VALUE (see $(basename "$0") --help)"
  done
}

need_number() { # MINIMUM FLAG...
  local flag
  for flag in "${@:2}"; do
    if [[ ! ${!flag} =~ ^(0|[1-9][0-9]{0,8})$ ]] || ((${!flag} < $1)); then
      fail "--$flag=${!flag} is no whole number from $1 up"
    fi
  done
}

need_tool() { # TOOL WHERE_TO_GET_IT
  [[ $dry_run ]] || command -v "$1" >/dev/null || fail "$1 is not installed: see $2"
}

need_program() {
  ((${#program[@]})) || fail 'no program: add -- python -m uniemox_jax.pretrain --config=... --workdir=...'
}

need_pod_program() { # What will run on every worker at once.
  need_program
  local words=" ${program[*]} "
  [[ $words != *$'\n'* ]] || fail 'the program holds a line break, which does not survive on the way: remove it'
  # Without it every worker would train alone, and all would write one workdir.
  if [[ $words =~ ' uniemox_jax.'(pretrain|finetune|train_clip|evaluate)' ' && $words != *' --multihost '* ]]; then
    fail "uniemox_jax.${BASH_REMATCH[1]} would run on every worker by itself: add --multihost"
  fi
  [[ $words =~ ' --workdir'[\ =]gs:// ]] ||
    say 'note: no --workdir=gs://...: what the run writes goes with the machines, unless it is on a shared disk'
}

scratch_folder() { # A folder of this call alone in $scratch. A dry run makes none.
  scratch=${TMPDIR:-/tmp}/uniemox_jax.XXXXXX
  if [[ ! $dry_run ]]; then
    scratch=$(mktemp -d "$scratch")
    trap 'rm -rf "$scratch"' EXIT
  fi
}

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

commit() { # REF: its hash.
  git -C "$REPOSITORY" rev-parse --quiet --verify "$1^{commit}" || fail "--ref=$1 is no commit of $REPOSITORY"
}

archive() { # REF FILE: the repository at that commit.
  if [[ ! $dry_run ]]; then
    commit "$1" >/dev/null
    [[ ! $(git -C "$REPOSITORY" status --porcelain) ]] || say "note: what is not committed in $REPOSITORY stays here"
  fi
  run git -C "$REPOSITORY" archive --format=tar --output="$2" "$1"
}

exec 3>&1
