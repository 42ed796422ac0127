#!/bin/bash
# Trains one run with several processes, and requeues itself before the time limit until the run is finished:
#
#   sbatch docs/slurm_processes.sh my-recipe.toml run.directory=runs/long train.accumulate=8
#
# Adapt the resources; train.accumulate must be the number of tasks times a power of two. Do not give --overwrite: each
# start would begin anew.
#SBATCH --job-name=genir
#SBATCH --time=04:00:00
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300

# SLURM sends SIGTERM to this script only; srun passes it on to all processes. The first one finishes its update, writes a
# checkpoint and exits with 143.
trap 'kill -TERM "$training" 2> /dev/null' TERM

srun --mpi=pmix --cpus-per-task="$SLURM_CPUS_PER_TASK" genir train "$@" &
training=$!
wait "$training"
code=$?
# The first wait ends when the signal arrives, the second one when srun has ended.
if kill -0 "$training" 2> /dev/null; then
    wait "$training"
    code=$?
fi
if [ "$code" -eq 143 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
