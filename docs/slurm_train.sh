#!/bin/bash
# Trains with genir, and requeues itself before the time limit until the run is finished:
#
#   sbatch docs/slurm_train.sh my-recipe.toml run.directory=runs/long
#
# Adapt the resources. Do not give --overwrite: each start would begin anew.
#SBATCH --job-name=genir
#SBATCH --time=04:00:00
#SBATCH --gres=gpu:1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300

# SLURM sends SIGTERM to this script only. genir finishes its update, writes a checkpoint and exits with 143.
trap 'kill -TERM "$training" 2> /dev/null' TERM

genir train "$@" &
training=$!
wait "$training"
code=$?
# The first wait ends when the signal arrives, the second one when genir has ended.
if kill -0 "$training" 2> /dev/null; then
    wait "$training"
    code=$?
fi
if [ "$code" -eq 143 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
