#!/bin/sh
# Slurm prolog: notes for wattgram who a job is and which GPUs it holds. It never fails a job, waits for nobody, and does
# nothing where the folder is missing. slurm.conf: Prolog=/etc/slurm/wattgram-prolog.sh, PrologFlags=Contain.
# Another folder than /run/wattgram-slurm: as the first argument, and in [workloads.slurm] jobs.
PATH=/usr/sbin:/usr/bin:/sbin:/bin # slurmd gives none
LC_ALL=C
export PATH LC_ALL
umask 022

folder=${1:-/run/wattgram-slurm}

# Root writes here: the folder must be its own, no link, and nobody else's to write in.
is_safe() {
    [ -d "$1" ] && [ ! -L "$1" ] || return 1
    # shellcheck disable=SC2046  # mode, links, owner's number
    set -- $(ls -nd "$1")
    case $1 in d????-??-*) [ "$3" = "$(id -u)" ] ;; *) return 1 ;; esac
}

# KEY=value on one line, whatever the value holds, of 200 bytes at most; nothing for no value.
say() {
    case $2 in
    "") return 0 ;;
    *[!A-Za-z0-9_.,:@+-]*) printf '%s=%.200s\n' "$1" "$(printf '%s' "$2" | tr '[:cntrl:]' ' ')" ;;
    *) printf '%s=%.200s\n' "$1" "$2" ;;
    esac
}

# Slurm counts MIG instances instead of GPUs where there are any: then its numbers are not GPUs.
gpus() {
    for instance in /proc/driver/nvidia/capabilities/gpu*/mig/gi*; do
        [ -e "$instance" ] && return 0
    done
    say gpus "${SLURM_JOB_GPUS:-}"
}

note() {
    job=${SLURM_JOB_ID:-}
    case $job in "" | 0* | *[!0-9]*) return 1 ;; esac
    is_safe "$folder" || return 1
    {
        say user "${SLURM_JOB_USER:-}"
        say uid "${SLURM_JOB_UID:-}"
        say account "${SLURM_JOB_ACCOUNT:-}"
        say name "${SLURM_JOB_NAME:-}"
        gpus
    } >"$folder/.$job.new" && mv -f "$folder/.$job.new" "$folder/$job"
}

note </dev/null >/dev/null 2>&1
exit 0
