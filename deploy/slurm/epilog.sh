#!/bin/sh
# Slurm epilog: strikes out what prolog.sh noted of a job. It never fails a job and waits for nobody.
# slurm.conf: Epilog=/etc/slurm/wattgram-epilog.sh. Another folder than /run/wattgram-slurm: as the first argument.
PATH=/usr/sbin:/usr/bin:/sbin:/bin # slurmd gives none
export PATH

folder=${1:-/run/wattgram-slurm}

strike() {
    job=${SLURM_JOB_ID:-}
    case $job in "" | 0* | *[!0-9]*) return 1 ;; esac
    [ -d "$folder" ] && [ ! -L "$folder" ] || return 1
    rm -f "$folder/$job" "$folder/.$job.new"
}

strike </dev/null >/dev/null 2>&1
exit 0
