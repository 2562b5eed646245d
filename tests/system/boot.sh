#!/bin/sh
# Boots the systemd of a Debian root as PID 1 of a container, and ends it when standard input is closed.
#
#   boot.sh ROOT WORK CGROUP PROGRAMS
#
# ROOT is a debootstrapped tree, or several layers, and is not written to; WORK an empty directory for the overlay, which ends with the
# container unless it has the directories upper, work and root, on a file system that can be written to; CGROUP a cgroup (v2) that is
# the container's alone; PROGRAMS a directory that it sees as /opt/ratoon. Runs under `unshare --mount --pid --fork`: this
# shell is PID 1 there, so its end, however it comes, ends all that it started, and its mounts go with it.
set -eu
root=$1 work=$2 cgroup=$3 programs=$4

if [ ! -d "$work/upper" ]; then
    mount -t tmpfs -o mode=755 tmpfs "$work"
    mkdir "$work/upper" "$work/work" "$work/root"
fi
mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work" "$work/root"

# Two containers in one cgroup would fight for its `payload`; and nothing else may sit in it, or it has no controllers.
(
    echo 0 >"$cgroup/cgroup.procs"
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
    exec systemd-nspawn --quiet --directory="$work/root" --boot --register=no --keep-unit \
        --private-network --link-journal=no --console=pipe --bind-ro="$programs:/opt/ratoon" </dev/null
) &

# End of file: whoever booted the container closed the pipe, or died.
read -r _ || :
