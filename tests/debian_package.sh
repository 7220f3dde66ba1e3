#!/bin/sh
# The Debian package, from the source to a purge: built, read by lintian, installed into a new minimal Debian 12,
# run there, upgraded and removed. `sh tests/debian_package.sh build` only builds it; it lies in dist/ then.
#
# No systemd runs in a chroot, so what the unit would do is done here by hand, under the same user: its
# directories, SIGHUP, SIGUSR1, sockets passed. The unit itself is read by systemd-analyze, and where there is
# systemd-nspawn (systemd-container), the same Debian is booted and tests/booted.sh runs in it.
set -eu
cd "$(dirname "$0")/.."
tree=$PWD
suite=bookworm
# The package is for Debian's own Python; another in front of it would be found by pybuild, and would fail.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

says() { echo "debian-package: $*"; }
fail() {
    echo "debian-package: FAILED: $*" >&2
    exit 1
}
not_run() {
    echo "debian-package: $*; NOT RUN" >&2
    [ -z "${CI:-}" ] && exit 0
    exit 1
}

work='' root='' running=''

# Ends what was started, and only that; then takes the chroot away, if nothing is mounted in it any more.
end() {
    status=$?
    trap - EXIT
    for pid in $running; do
        kill "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || true
    done
    if [ -n "$root" ]; then
        for place in proc sys; do
            ! mountpoint -q "$root/$place" || umount "$root/$place" || status=1
        done
    fi
    [ -z "$work" ] || rm -rf --one-file-system "$work"
    exit "$status"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

# Runs something that says much, and shows it only if it fails: quietly WHAT COMMAND...
quietly() {
    what=$1
    shift
    says "$what"
    if ! "$@" >"$work/output" 2>&1 </dev/null; then
        tail -n 60 "$work/output" >&2
        fail "$what: the last lines are above"
    fi
}

# One thing that must hold: holds WHAT COMMAND...
holds() {
    what=$1
    shift
    if ! "$@" >"$work/output" 2>&1 </dev/null; then
        cat "$work/output" >&2
        fail "does not hold: $what ($*)"
    fi
    says "holds: $what"
}

# Tries a command for ten seconds.
until_it() {
    tries=100
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}

# --- the build

for tool in dpkg-buildpackage dh; do
    command -v "$tool" >/dev/null || not_run "there is no $tool (apt-get install build-essential debhelper)"
done
if ! missing=$(dpkg-checkbuilddeps 2>&1); then
    not_run "$missing (apt-get build-dep ./ installs them)"
fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/gatewayd-debian.XXXXXX")
version=$(dpkg-parsechangelog --show-field Version)
written=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' gatewayd/__init__.py)
[ "$version" = "$written" ] ||
    fail "debian/changelog says $version, gatewayd/__init__.py $written: a release changes both"

# From a copy, for a build leaves much behind, and uses what an earlier one left.
mkdir "$work/source"
tar --create --exclude-vcs --exclude=./.venv --exclude=./build --exclude=./dist --exclude='*.egg-info' \
    --exclude=__pycache__ --exclude='./.*_cache' --exclude=./.hypothesis . | tar --extract --directory "$work/source"
build() { (cd "$work/source" && dpkg-buildpackage --unsigned-source --unsigned-changes --build=binary); }
quietly "building $version, with its unit tests" build
mkdir -p dist
rm -f dist/gatewayd_*.deb dist/gatewayd-dbgsym_*.deb dist/gatewayd_*.changes dist/gatewayd_*.buildinfo
cp "$work"/gatewayd*_"$version"_* dist/
deb=$(ls "$tree"/dist/gatewayd_"$version"_*.deb)
says "built $deb"
[ "${1:-}" != build ] || exit 0

# --- what it is

command -v lintian >/dev/null || not_run "there is no lintian (apt-get install lintian)"
holds "lintian finds neither errors nor warnings" \
    lintian --fail-on error,warning --allow-root dist/gatewayd_"$version"_*.changes

dpkg-deb --fsys-tarfile "$deb" | tar --list >"$work/files"
for file in etc/gatewayd/gatewayd.yaml usr/bin/gatewayd lib/systemd/system/gatewayd.service \
    etc/logrotate.d/gatewayd usr/lib/sysusers.d/gatewayd.conf usr/share/doc/gatewayd/examples/gatewayd.socket \
    usr/share/man/man1/gatewayd.1.gz usr/share/man/man5/gatewayd.yaml.5.gz \
    usr/lib/python3/dist-packages/twisted/plugins/gatewayd_plugin.py; do
    grep -Eqx "\./(usr/)?$file" "$work/files" || fail "$deb lacks /$file"
done
! grep -E 'dropin\.cache|/tests/|__pycache__' "$work/files" || fail "$deb has what is above"
grep -q 'proxy/forward\.cpython-.*\.so$' "$work/files" || fail "$deb is not compiled: proxy/forward is Python"
says "holds: the package has what it should, compiled, and no cache or test"

# --- a new Debian

[ "$(id -u)" = 0 ] || not_run "installing into a chroot wants root"
for tool in debootstrap curl; do
    command -v "$tool" >/dev/null || not_run "there is no $tool (apt-get install $tool)"
done
# This machine's own mirrors, and what apt needs to reach them.
# shellcheck disable=SC2016  # apt expands it
apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    grep -E " $suite(-updates|-security)? main\$" | sort -u >"$work/mirrors" || true
mirror=$(sed -n "s/ $suite main\$//p" "$work/mirrors" | head -n 1)
[ -n "$mirror" ] || not_run "apt here has no mirror of $suite main (see /etc/apt/sources.list)"

root=$work/root
quietly "a minimal $suite from $mirror" debootstrap --variant=minbase "$suite" "$root" "$mirror"
sed 's/^/deb /' "$work/mirrors" >"$root/etc/apt/sources.list"
apt-config dump | grep -E '^Acquire::(https?|Check-)' >"$root/etc/apt/apt.conf.d/00host" || true
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # nothing is started on installing
chmod 755 "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc"

in_it() { chroot "$root" "$@"; }
# In front of a command, as words: a function in the background would be a shell, which takes the signals.
as_gatewayd='setpriv --reuid=gatewayd --regid=gatewayd --clear-groups --no-new-privs'
apt() { in_it apt-get --quiet --assume-yes --no-install-recommends "$@"; }

quietly "its package lists" apt update
quietly "what the checks use there" apt install curl logrotate man-db
cp "$deb" "$root/root/gatewayd.deb"
quietly "installing the package" apt install /root/gatewayd.deb

holds "the user gatewayd is there, without a shell" \
    in_it sh -c 'getent passwd gatewayd | grep -q ":/var/lib/gatewayd:/usr/sbin/nologin$"'
holds "gatewayd.yaml is a conffile" \
    in_it sh -c "dpkg-query --show --showformat='\${Conffiles}' gatewayd | grep -q ' /etc/gatewayd/gatewayd.yaml '"
# shellcheck disable=SC2016  # expanded in there
holds "man reads both pages without a complaint" in_it sh -c 'for page in "1 gatewayd" "5 gatewayd.yaml"; do
    complaints=$(man --warnings $page 2>&1 >/dev/null) && [ -z "$complaints" ] || { echo "$complaints"; exit 1; }
done'
holds "the configuration is fine" in_it gatewayd check
holds "it runs compiled" in_it python3 -c 'import sys, gatewayd.proxy.forward as f; sys.exit(not f.__file__.endswith(".so"))'
holds "twistd3 knows gatewayd" in_it sh -c 'twistd3 --help | grep -q "^ *gatewayd "'
holds "the service is enabled" in_it systemctl is-enabled gatewayd.service
holds "systemd understands the unit" in_it systemd-analyze verify gatewayd.service
holds "its exposure is 2.5 at most" \
    in_it systemd-analyze security --offline=true --threshold=25 gatewayd.service
cp debian/tests/smoke "$root/root/smoke"
quietly "the autopkgtest smoke" in_it /root/smoke

# --- a running one

# As StateDirectory, LogsDirectory and RuntimeDirectory do.
own="/var/lib/gatewayd /var/log/gatewayd /run/gatewayd"
# shellcheck disable=SC2086  # words
in_it install -d -o gatewayd -g gatewayd -m 750 $own

mkdir "$work/www"
echo "from upstream" >"$work/www/file"
/usr/bin/python3 -u -m http.server --bind 127.0.0.1 --directory "$work/www" 0 >"$work/upstream" 2>&1 &
running="$running $!"
until_it grep -q 'port [0-9]' "$work/upstream" || fail "the upstream did not start: $(cat "$work/upstream")"
upstream=$(sed -n 's/^Serving HTTP on .* port \([0-9]*\) .*/\1/p' "$work/upstream")
# A port that is free now: the gateway keeps it over reloads.
port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

configure() { # ADDRESS PATH
    cat >"$root/etc/gatewayd/gatewayd.yaml" <<YAML
# An administrator's own.
listeners:
  web:
    address: $1
routes:
  - name: files
    match: {path_prefix: $2}
    rewrite: {strip_prefix: $2}
    upstream: files
upstreams:
  files:
    endpoints: ["127.0.0.1:$upstream"]
admin:
  address: unix:/run/gatewayd/admin.sock
logging:
  to: /var/log/gatewayd/gatewayd.log
  access: {to: /var/log/gatewayd/access.log}
YAML
}
serves() { [ "$(curl --silent --max-time 5 "http://127.0.0.1:$port$1/file")" = "from upstream" ]; }
stop() { # PID: by SIGTERM, and it says 0
    kill -TERM "$1"
    wait "$1" || fail "gatewayd ended with $? instead of 0; $(cat "$work/gatewayd")"
    running=${running%" $1"}
}
gone() { ! [ -e "$1" ]; }

configure "127.0.0.1:$port" /one
# shellcheck disable=SC2086  # words
chroot "$root" $as_gatewayd gatewayd run >"$work/gatewayd" 2>&1 &
gateway=$!
running="$running $gateway"
until_it serves /one || fail "nothing came through the gateway; it says: $(cat "$work/gatewayd")"
says "holds: requests go through, as the user gatewayd"

configure "127.0.0.1:$port" /two
holds "gatewayd reload" in_it gatewayd reload
until_it serves /two || fail "the reload took no effect: $(cat "$root"/var/log/gatewayd/gatewayd.log)"
configure "127.0.0.1:$port" /three
kill -HUP "$gateway"
until_it serves /three || fail "SIGHUP took no effect: $(cat "$root"/var/log/gatewayd/gatewayd.log)"
echo 'nonsense: 1' >>"$root/etc/gatewayd/gatewayd.yaml"
! in_it gatewayd reload >"$work/output" 2>&1 || fail "a configuration in error was taken"
grep -q 'gatewayd.yaml:[0-9]*:[0-9]*: nonsense' "$work/output" || fail "unclear: $(cat "$work/output")"
serves /three || fail "a configuration in error changed something"
configure "127.0.0.1:$port" /three
says "holds: reloads by command and signal take effect, and one in error changes nothing"

# Here no systemctl finds the daemon, so the signal is ours; but the rule itself must not fail.
holds "logrotate's rule" in_it logrotate --force /etc/logrotate.d/gatewayd
gone "$root/var/log/gatewayd/access.log" || fail "logrotate did not move access.log"
kill -USR1 "$gateway"
until_it test -e "$root/var/log/gatewayd/access.log" || fail "SIGUSR1 did not open access.log anew"
serves /three
until_it grep -q 'GET /three/file' "$root/var/log/gatewayd/access.log" || fail "the new access.log stays empty"
[ "$(stat --format=%U "$root/var/log/gatewayd/access.log.1")" = "$(stat --format=%U "$root/var/log/gatewayd/access.log")" ] ||
    fail "logs changed hands: $(ls -l "$root/var/log/gatewayd")"
says "holds: logs are rotated"
stop "$gateway"

configure fd:web /socket
# shellcheck disable=SC2086  # words
chroot "$root" $as_gatewayd systemd-socket-activate --listen="127.0.0.1:$port" --fdname=web gatewayd run \
    >"$work/gatewayd" 2>&1 &
gateway=$!
running="$running $gateway"
until_it serves /socket || fail "it does not serve on a socket that systemd passes; it says: $(cat "$work/gatewayd")"
says "holds: a socket that systemd passes is served"
stop "$gateway"

# --- under systemd

# In a mount namespace of its own with nothing but cgroup2, whatever this machine has.
booted() {
    unshare --mount sh -c 'set -e
        mount --make-rprivate /
        umount --recursive /sys/fs/cgroup
        mount -t cgroup2 none /sys/fs/cgroup
        group=/sys/fs/cgroup/gatewayd-test-$$ # of its own: a run that was interrupted leaves one behind
        mkdir "$group"
        echo $$ >"$group/cgroup.procs"
        SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout --kill-after=10 240 systemd-nspawn --directory "$0" \
            --machine gatewayd-test --boot --register=no --keep-unit --private-network --console=pipe ||
            status=$?
        echo $$ >/sys/fs/cgroup/cgroup.procs
        find "$group" -depth -type d -exec rmdir {} +
        exit ${status:-0}' "$root"
}
if command -v systemd-nspawn >/dev/null; then
    quietly "a systemd in there" apt install systemd-sysv dbus
    cp tests/booted.sh "$root/root/booted"
    chmod 755 "$root/root/booted"
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    cat >"$root/etc/systemd/system/booted.service" <<UNIT
[Unit]
After=gatewayd.service
[Service]
Type=oneshot
TimeoutStartSec=200
ExecStart=/root/booted
StandardOutput=file:/root/said
StandardError=inherit
UNIT
    ln -s ../booted.service "$root/etc/systemd/system/multi-user.target.wants/"
    umount "$root/proc"
    quietly "booting it, a minute" booted
    mount -t proc proc "$root/proc"
    [ "$(tail -n 1 "$root/root/said")" = passed ] || fail "under systemd: $(cat "$root/root/said")"
    says "holds: under systemd two upgrades, reloads, a kill and a stop; no request failed"
    # As the package has it again.
    rm -r "$root"/etc/systemd/system/booted.service "$root"/etc/systemd/system/multi-user.target.wants/booted.service
    rm -f "$root/root/booted" "$root/root/said" "$root/root/enough" "$root/root/failures"
    configure "127.0.0.1:$port" /three
else
    says "there is no systemd-nspawn (apt-get install systemd-container); not run under systemd"
fi

# --- upgraded
kept() { grep -q "^# An administrator's own" "$root/etc/gatewayd/gatewayd.yaml"; }
quietly "installing the same again" apt install --reinstall /root/gatewayd.deb
kept || fail "reinstalling replaced an edited gatewayd.yaml"
# The next version, whose gatewayd.yaml differs as well.
dpkg-deb --raw-extract "$deb" "$work/next"
sed -i "s/^Version: .*/&+next/" "$work/next/DEBIAN/control"
echo '# The package has changed it.' >>"$work/next/etc/gatewayd/gatewayd.yaml"
sum=$(md5sum <"$work/next/etc/gatewayd/gatewayd.yaml" | cut -d' ' -f1)
sed -i "s,^[0-9a-f]*\(  etc/gatewayd/gatewayd.yaml\)$,$sum\1," "$work/next/DEBIAN/md5sums"
dpkg-deb --root-owner-group --build "$work/next" "$root/root/next.deb" >/dev/null
quietly "upgrading to $version+next" apt install --option Dpkg::Options::=--force-confold /root/next.deb
holds "it is the next version" \
    in_it sh -c "dpkg-query --show --showformat='\${Version} \${Status}' gatewayd | grep -qF '$version+next install ok installed'"
kept || fail "the upgrade replaced an edited gatewayd.yaml"
[ -e "$root/etc/gatewayd/gatewayd.yaml.dpkg-dist" ] || fail "the upgrade did not lay its own gatewayd.yaml beside"
holds "what was edited is kept and still fine" in_it gatewayd check
holds "twistd3 still knows gatewayd" in_it sh -c 'twistd3 --help | grep -q "^ *gatewayd "'

# --- removed

# Logs and state are the running service's, made by systemd; they stay over a purge, for the package has no
# scripts of its own. README.Debian says to `systemctl clean` before; here that is
# shellcheck disable=SC2086  # words
in_it rm -r $own

quietly "removing it" apt remove gatewayd
kept || fail "removing took the configuration, which only a purge may"
holds "twistd3 works without it" in_it sh -c '! twistd3 --help | grep gatewayd'
quietly "purging it" apt purge gatewayd
rm "$root/root/gatewayd.deb" "$root/root/next.deb"
# In /var/cache man keeps the pages that it showed.
left=$(find "$root" -xdev -path "$root/var/cache" -prune -o \( -name '*gatewayd*' -o -name '*__mypyc*' \) -print)
[ -z "$left" ] || fail "a purge leaves: $left"
left=$(grep -rl gatewayd "$root/etc" "$root/usr/lib/python3/dist-packages/twisted" |
    grep -Ev '/etc/(passwd|shadow|group|gshadow)-?$' || true)
[ -z "$left" ] || fail "after a purge gatewayd is named in: $left"
# The user stays: sysusers.d never removes one, lest its number be given to another who then owns its files.
holds "of a purged package only the user is left" in_it getent passwd gatewayd
# shellcheck disable=SC2016  # expanded in there
holds "twistd3 says nothing of a plugin that is gone" in_it sh -c '[ -z "$(twistd3 --help 2>&1 >/dev/null)" ]'
says "passed"
