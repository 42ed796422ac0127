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
# 143. (A SIGTERM to srun itself would kill them.) SLURM may send it up to a minute earlier.
#SBATCH --signal=TERM@300

# Where SLURM does not bind a process to its cores, it would use all of them.
[ -n "$SLURM_CPUS_PER_TASK" ] && export RAYON_NUM_THREADS="$SLURM_CPUS_PER_TASK"
srun --mpi=pmix --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} genir train "$@"
code=$?
# 143 is also the code of a signal before the first update: the limit keeps a time that is too short from being tried for ever.
if [ "$code" -eq 143 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 1000 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
