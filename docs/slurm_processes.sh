#!/bin/bash
# Trains one run with several processes, and requeues itself before the time limit until the run is finished:
#
#   sbatch docs/slurm_processes.sh my-recipe.toml run.directory=runs/long train.accumulate=8
#
# Adapt the resources; train.accumulate must be the number of tasks, or that times a power of two. Do not give --overwrite:
# each start would begin anew.
#SBATCH --job-name=genir
#SBATCH --time=04:00:00
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --open-mode=append
# Without `B:`: to the processes, not to this script. The first one finishes its update, writes a checkpoint and exits with
# 143. (A SIGTERM to srun itself would kill them.)
#SBATCH --signal=TERM@300

srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" genir train "$@"
code=$?
if [ "$code" -eq 143 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
