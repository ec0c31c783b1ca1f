#!/usr/bin/env bash
# Called in new namespaces, as process 1: becomes systemd, on an overlay of this machine's root file system of which nothing
# stays, with the files of FOLDER/files, and FOLDER/out as /run/out. The only network is the loopback interface.
set -euo pipefail

folder=$1
root=$folder/root

mount --make-rprivate /
ip link set lo up
ip address add 192.0.2.1/32 dev lo # stands for another machine
mkdir -p "$folder/disk" "$root" "$folder/out"
mount -t tmpfs -o size=1g tmpfs "$folder/disk"
mkdir "$folder/disk/upper" "$folder/disk/work"
mount -t overlay -o "lowerdir=/,upperdir=$folder/disk/upper,workdir=$folder/disk/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --bind -o ro "$root/proc/sys" "$root/proc/sys" # the kernel's settings are everybody's
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
for name in null zero full random urandom tty console; do
    touch "$root/dev/$name"
    [ "$name" = console ] || mount --bind "/dev/$name" "$root/dev/$name"
done
mount --bind "$(tty)" "$root/dev/console"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir "$root/run/out"
mount --bind "$folder/out" "$root/run/out"

# Of this machine's own services none is started.
rm -rf "$root"/{usr/lib,lib,etc}/systemd/system/*.{wants,requires}
cp -a "$folder/files/." "$root/"

cd "$root"
mkdir old
pivot_root . old
umount -l /old
mount --make-rshared / # as systemd does itself on a machine, for what it mounts to arrive in services
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=test.target --show-status=no \
    --log-target=console
