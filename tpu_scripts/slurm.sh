#!/usr/bin/env bash
# A run on a Slurm cluster with GPUs: a batch script, which Slurm starts again until the run is done.
#
#   sbatch --gpus-per-node=1 tpu_scripts/slurm.sh -- python -m uniemox_jax.pretrain --config=... --workdir=...
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 tpu_scripts/slurm.sh -- \
#     python -m uniemox_jax.pretrain --multihost --config=... --workdir=...
#
# With one task, one process takes all GPUs of the node. With more, each task takes one GPU, and needs --multihost:
# jax then finds the others by Slurm's own variables. Give sbatch also what your cluster asks for: --partition,
# --account, --time. --workdir must lie on a disk that all nodes share.
#
# 120 s before the time limit, and when Slurm pre-empts the job, the run gets SIGTERM, saves and ends with code 75. The
# job is then requeued, and the run resumes; so it is when a task was killed (137). Any other code ends the job.
#
#   --restarts=K        start again at most K times (100)
#   --container=IMAGE   run inside an Apptainer image that has everything (apptainer exec --nv IMAGE ...)
#   --dry_run           print the commands, run none
#SBATCH --job-name=uniemox
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
# Slurm runs a copy of this file; the job began in the folder of the repository, or of an installation.
folder=tpu_scripts
[[ ${SLURM_JOB_ID:-} ]] || folder=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$folder/lib.sh"

restarts=100 container=''
parse_flags 'restarts container' '' "$@"
need_number 0 restarts
need_program
[[ ${SLURM_JOB_ID:-} || $dry_run ]] || fail 'this is a batch script: sbatch --gpus-per-node=1 tpu_scripts/slurm.sh -- PROGRAM'
if ((${SLURM_NTASKS:-1} > 1)) && [[ " ${program[*]} " != *' --multihost '* ]]; then
  fail "${SLURM_NTASKS} tasks would train by themselves, all into one workdir: add --multihost, or ask for one task"
fi
if [[ $container ]]; then
  [[ $dry_run || -e $container ]] || fail "--container=$container is not there: build it, or correct the path"
  program=(apptainer exec --nv "$container" "${program[@]}")
fi

# Slurm may send SIGTERM to this shell too: the tasks decide how the job ends.
trap '' TERM
code=0
run srun --kill-on-bad-exit=0 "${program[@]}" || code=$?
if [[ $code =~ ^(75|137|143)$ ]]; then
  if ((${SLURM_RESTART_COUNT:-0} >= restarts)); then
    say "ended with code $code after ${SLURM_RESTART_COUNT:-0} restarts, as many as --restarts allows"
    exit "$code"
  fi
  say "ended with code $code: the job is requeued, and the run resumes"
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
