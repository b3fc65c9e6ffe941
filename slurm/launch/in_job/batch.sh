# Sourced by the batch script of every job, which runs on the host. Python may run in a container, where SLURM's programs are
# not: a job that wants to go back into the queue, or to hold the rest of its sweep, leaves a request (slurm/launch/in_job/requests.py)
# and ends. iddpm_end does what the request says.
# The script calls:  iddpm_begin FOLDER-OF-LOGS;  srun ...;  iddpm_end $?

# Whether `iddpm cancel` has named this job. A requeue that was under way could bring a cancelled job back.
iddpm_is_cancelled() { grep -qsxF "$iddpm_id" "$iddpm_logs/cancelled"; }

# SLURM ends the job soon, and says how it ended. A script that ended first would make it completed or failed.
iddpm_wait_for_kill() { sleep "$1"; exit 1; }

iddpm_begin() {
    iddpm_logs=$1
    iddpm_id=$SLURM_JOB_ID  # of an element of an array this is 12_3: one of them has the array's own number as its SLURM_JOB_ID
    if [ -n "$SLURM_ARRAY_JOB_ID" ]; then iddpm_id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    export IDDPM_REQUEST=$iddpm_logs/request-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
    export SUBMITIT_PREEMPT_SIGNAL=URG  # submitit would answer USR2 with its own requeue before our Python listens
    unset PYTHONSAFEPATH  # `python -m` finds the submitted code in the current folder
    unset ${!SQUEUE_@} ${!SCANCEL_@} SLURM_TIME_FORMAT
    : >> "$iddpm_logs/cancelled"  # network file systems forget late that a file was missing
    if iddpm_is_cancelled; then
        echo "this job was cancelled by iddpm cancel, and ends"
        scancel "$iddpm_id"
        iddpm_wait_for_kill 60
    fi
    iddpm_watcher=
    if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then iddpm_watch & iddpm_watcher=$!; fi
}

# Beside srun, which waits for minutes for a node that died: the other ranks notice first.
iddpm_watch() {
    while sleep 3; do
        if grep -qsx requeue-now "$IDDPM_REQUEST" && iddpm_take; then iddpm_requeue "${iddpm_asked[1]}"; exit; fi
    done
}

# Read the request into iddpm_asked, if there is one that nobody has taken.
iddpm_take() {
    mv "$IDDPM_REQUEST" "$IDDPM_REQUEST.taken" 2>/dev/null && mapfile -t iddpm_asked < "$IDDPM_REQUEST.taken"
}

# iddpm_requeue [RUN]: put this job back into the queue. If SLURM refuses, say so in RUN/failure.json, which Python has prepared.
iddpm_requeue() {
    local said try state
    if iddpm_is_cancelled; then iddpm_wait_for_kill 60; fi
    state=$(squeue --noheader --jobs="$iddpm_id" --format=%T 2>/dev/null)
    case $state in COMPLETING*|CANCELLED*) iddpm_wait_for_kill 60 ;; esac  # by scancel, a moment ago
    for try in 1 2 3; do
        said=$(scontrol requeue "$iddpm_id" 2>&1) && iddpm_wait_for_kill 300
        echo "scontrol requeue: $said"
        sleep 3
    done
    if [ -z "${1:-}" ]; then return; fi
    said=$(printf %s "$said" | tr -cs '[:alnum:] .:,()_-' ' ')
    sed "s/SCONTROL_SAID/$said/" "$1/.refused.json" > "$1/.failure.json.new" && mv "$1/.failure.json.new" "$1/failure.json"
}

# iddpm_hold STUDY JOBS REPORTS: hold what is pending of JOBS, let the REPORTS start, and write STUDY/held.json. Ids with spaces.
iddpm_hold() {
    local id
    for id in $2; do scontrol hold "$id"; done  # complains about elements that have started or ended
    if squeue --noheader --jobs="${2// /,}" --states=PENDING --format=%r | grep -q JobHeld; then
        mv "$IDDPM_REQUEST.held" "$1/held.json"
        for id in $3; do scontrol update "JobId=$id" Dependency=; done
    else
        echo "the rest of the sweep could not be put on hold"
        rm -f "$IDDPM_REQUEST.held"
    fi
}

# iddpm_next_wave PYTHON STUDY FOLDER: submit the runs of the study that wait, from the code of this job.
iddpm_next_wave() { if ! iddpm_is_cancelled; then "$1" -m slurm.launch.sites.next_wave "$2" "$3"; fi; }

# iddpm_unheard STATUS: SIGUSR2 (status 140) ended a task before it could ignore signals (slurm/launch/sbatch_script.py), with
# nothing to save: the job is to start again.
iddpm_unheard() {
    if [ "$1" != 140 ]; then return; fi
    case ${IDDPM_FOLLOW_UPS:-} in
        "") iddpm_requeue ;;
        0) ;;
        *) echo "the follow-up job does the stage"; exit 0 ;;
    esac
}

# iddpm_end STATUS: do what Python has asked for, then end with srun's status.
iddpm_end() {
    if iddpm_take; then
        case ${iddpm_asked[0]} in
            requeue|requeue-now) iddpm_requeue "${iddpm_asked[1]}"; exit 1 ;;
            saved) echo "the stage is saved, and the follow-up job resumes it"; set -- 0 ;;
            wait) iddpm_wait_for_kill 900 ;;
            hold) iddpm_hold "${iddpm_asked[1]}" "${iddpm_asked[2]}" "${iddpm_asked[3]}" ;;
        esac
    elif [ -n "$iddpm_watcher" ] && [ -e "$IDDPM_REQUEST.taken" ]; then
        wait "$iddpm_watcher"  # it requeues this job
    else
        iddpm_unheard "$1"
    fi
    if [ -n "$iddpm_watcher" ]; then kill "$iddpm_watcher" 2>/dev/null; fi
    exit "$1"
}
