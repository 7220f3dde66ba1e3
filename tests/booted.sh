#!/bin/sh
# Run by tests/debian_package.sh as the last service of a Debian that systemd has booted: an upgrade in place of
# the packaged service, with clients all the while. Its last line is "passed", and then the machine goes off.
set -u
trap 'systemctl --no-block poweroff' EXIT

fail() {
    echo "FAILED: $*"
    systemctl status --no-pager gatewayd
    journalctl --no-pager -u gatewayd | tail -n 40
    exit 1
}
pid() { systemctl show --property=MainPID --value gatewayd; }
serves() {
    [ "$(systemctl is-active gatewayd)" = active ] && [ "$(curl --silent --max-time 2 http://127.0.0.1:2000/)" = hello ]
}
until_it() {
    tries=150
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}

cat >/etc/gatewayd/gatewayd.yaml <<YAML
workers: 2
listeners: {web: {address: 127.0.0.1:2000}}
routes: [{name: all, respond: {status: 200, body: hello}}]
admin: {address: unix:/run/gatewayd/admin.sock}
logging: {access: {to: none}}
drain_timeout: 5s
YAML
systemctl restart gatewayd
until_it serves || fail "it does not serve"
systemctl show --property=StatusText gatewayd | grep -q 'serves on web' || fail "its status says nothing"

# New connections all the time, and one that is kept; a line for each failure.
python3 -c '
import http.client, os, time
kept = None
while not os.path.exists("/root/enough"):
    for keep in (True, False):
        client = (keep and kept) or http.client.HTTPConnection("127.0.0.1", 2000, timeout=10)
        try:
            client.request("GET", "/")
            answer = client.getresponse()
            answer.read()
            if answer.status != 200:
                raise ValueError(answer.status)
            kept = client if keep and not answer.will_close else None if keep else kept
        except Exception as error:
            print(repr(error), flush=True)
            kept = None if keep else kept
    time.sleep(0.01)
' >/root/failures &
load=$!

former=$(pid)
sed -i 's/^__version__ = .*/__version__ = "9.9"/' /usr/lib/python3/dist-packages/gatewayd/__init__.py
gatewayd upgrade || fail "gatewayd upgrade"
latter=$(pid)
[ "$latter" != "$former" ] || fail "systemd has not followed to the new version"
[ "$(stat --format=%a /run/gatewayd/admin.sock)" = 660 ] || fail "the admin socket is open to all"
sleep 32 # longer than WatchdogSec
[ "$(pid)" = "$latter" ] && serves || fail "the new version was not kept"
[ ! -e "/proc/$former" ] || fail "the former version has not left"
systemctl reload gatewayd || fail "systemctl reload"
gatewayd upgrade &
asked=$!
sleep 0.3
systemctl reload gatewayd # which the one that leaves may refuse
wait "$asked" || fail "a second upgrade"
sleep 8 # the drain of the one before
[ "$(pid)" != "$latter" ] && serves || fail "a reload during an upgrade took the service down"
touch /root/enough
wait "$load"
[ ! -s /root/failures ] || fail "requests failed: $(sort /root/failures | uniq -c)"

latter=$(pid)
kill -KILL "$latter"
until_it sh -c "[ \"\$(systemctl show --property=MainPID --value gatewayd)\" != $latter ]"
until_it serves || fail "it was not started again"
systemctl stop gatewayd || fail "systemctl stop"
[ -z "$(cat /sys/fs/cgroup/system.slice/gatewayd.service/cgroup.procs 2>/dev/null)" ] || fail "something is left"
echo passed
