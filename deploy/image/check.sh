#!/usr/bin/env bash
# Puts together what the image's last stage has, without an image builder, and runs the program in it: in
# a root folder with that and nothing else, read-only, as user 65532, as process 1, with no network but a
# stand-in for DNS and for an API. Says how large the program is and how fast it starts.
#
#   deploy/image/check.sh                  build as the image does (ten minutes or more), and check
#   deploy/image/check.sh BINARY           check this one; if it is not static, with the libraries it needs
#   REPRODUCE=yes deploy/image/check.sh    also build in another folder, and compare
#
# Needs Linux with `unshare`, and Python 3 and openssl; without being root, also user namespaces.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'failed: %s\n' "$*" >&2
    exit 1
}

if [ -z "${APART:-}" ]; then
    built=
    if [ $# = 0 ]; then
        deploy/image/build.sh
        built=yes
        set -- "${CARGO_TARGET_DIR:-target}"/*-unknown-linux-gnu/release/drawoff
    fi
    if [ "${REPRODUCE:-}" = yes ]; then
        say "the same bytes from another folder"
        elsewhere=$(mktemp -d)
        trap 'rm -rf "$elsewhere"' EXIT
        git ls-files -z | tar --null -T - -c | tar -x -C "$elsewhere"
        CARGO_TARGET_DIR=$elsewhere/out "$elsewhere/deploy/image/build.sh"
        sha256sum "$1" "$elsewhere"/out/*-unknown-linux-gnu/release/drawoff
        cmp "$1" "$elsewhere"/out/*-unknown-linux-gnu/release/drawoff || fail "they differ"
    fi
    root_is_mapped=()
    [ "$(id -u)" = 0 ] || root_is_mapped=(--map-root-user)
    # Whatever is mounted or started below goes with this process.
    unshare "${root_is_mapped[@]}" --mount --net --pid --fork --kill-child --mount-proc -- \
        env APART="$(id -u)" STATIC_WANTED="$built" "$0" "$1"
    exit
fi

binary=$(realpath "$1")
work=$(mktemp -d)
trap 'umount -R -l "$work/root" 2> /dev/null || true; rm -rf "$work"' EXIT
chmod 0755 "$work"

say "the program"
bytes=$(stat -c %s "$binary")
if ldd "$binary" 2>&1 | grep -Eq 'statically linked|not a dynamic executable'; then
    echo "static, $bytes bytes, $(gzip -6 -c "$binary" | wc -c) compressed"
    # The base, gcr.io/distroless/static-debian12, has about 2 MB.
    [ "$bytes" -lt 38000000 ] || fail "with its base the image has more than 40 MB"
elif [ -n "$STATIC_WANTED" ]; then
    fail "it is not static: $(ldd "$binary")"
else
    echo "not static: with its libraries"
fi

# What the base has, as far as the program can see it; resolv.conf and hosts are the platform's.
root=$work/root
mkdir -p "$root"/{etc/ssl/certs,home/nonroot,usr/local/bin,work}
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' > "$root/etc/passwd"
echo 'nonroot:x:65532:' > "$root/etc/group"
echo 'nameserver 127.0.0.1' > "$root/etc/resolv.conf"
echo '127.0.0.1 localhost in-hosts.example' > "$root/etc/hosts"
ln -s "$binary" "$work/drawoff"
cp -L "$work/drawoff" "$root/usr/local/bin/drawoff"
for library in $(ldd "$binary" 2>/dev/null | grep -o '/[^ ]*'); do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
done

# An authority that the image trusts, one that it does not, and a certificate of each.
openssl_quietly() { openssl "$@" 2> "$work/openssl" || fail "openssl: $(cat "$work/openssl")"; }
for who in trusted stranger; do
    openssl_quietly req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
        -subj "/CN=$who" -keyout "$work/$who.key" -out "$work/$who.pem"
    openssl_quietly req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=api" \
        -keyout "$work/api-$who.key" -out "$work/api-$who.csr"
    openssl_quietly x509 -req -in "$work/api-$who.csr" -CA "$work/$who.pem" -CAkey "$work/$who.key" \
        -CAcreateserial -days 2 -out "$work/api-$who.pem" \
        -extfile <(echo 'subjectAltName = DNS:in-hosts.example, DNS:in-dns.example')
done
cp "$work/trusted.pem" "$root/etc/ssl/certs/ca-certificates.crt"

# The outside: DNS for one name, and the API behind each of the certificates.
python3 - "$work" <<'PYTHON' &
import fcntl, http.server, json, socket, ssl, struct, sys, threading, time

work = sys.argv[1]
up = struct.pack("16sH22x", b"lo", 0x1 | 0x40)
fcntl.ioctl(socket.socket(), 0x8914, up)


def dns():
    asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asked.bind(("127.0.0.1", 53))
    while True:
        query, who = asked.recvfrom(512)
        end = query.index(b"\0", 12) + 5
        name, kind = query[12 : end - 4], query[end - 4 : end - 2]
        answers = name == b"\x06in-dns\x07example\0" and kind == b"\0\1"
        head = query[:2] + b"\x81\x80\0\1" + struct.pack(">HHH", answers, 0, 0)
        body = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if answers else b""
        asked.sendto(head + query[12:end].join([b"", body]), who)


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with open(work + "/asked", "w") as file:
            file.write(str(time.time_ns()))
        if "slow" in self.path:
            time.sleep(60)
        body = json.dumps({"data": [{"id": 1}, {"id": 2}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


threading.Thread(target=dns, daemon=True).start()
for who, port in ("trusted", 443), ("stranger", 444):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Api)
    # Of those who hang up.
    server.handle_error = lambda *_: None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{work}/api-{who}.pem", f"{work}/api-{who}.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
open(work + "/ready", "w").close()
threading.Event().wait()
PYTHON
outside=$!
for _ in $(seq 100); do
    [ -e "$work/ready" ] && break
    kill -0 "$outside" || fail "there is no outside"
    sleep 0.1
done
[ -e "$work/ready" ] || fail "the outside is not ready after ten seconds"

# A connector of the user's and its settings, as they would be put into an image on top.
mkdir "$root/work/connectors"
cat > "$root/work/connectors/probe.yaml" <<'YAML'
title: Probe
base_url: https://in-hosts.example/v1
records: /data
primary_key: [id]
streams:
  items:
  slow:
YAML
cat > "$root/work/drawoff.yaml" <<'YAML'
sources:
  in-hosts: {connector: probe, allow_private_network: true}
  in-dns: {connector: probe, allow_private_network: true, base_url: "https://in-dns.example/v1"}
  stranger: {connector: probe, allow_private_network: true, base_url: "https://in-hosts.example:444/v1"}
YAML

mkdir "$root/work/out"
as_nonroot=()
if [ "$APART" = 0 ]; then
    as_nonroot=(--setgid 65532 --setuid 65532)
    chown 65532:65532 "$root/work/out"
fi
mount --bind "$root" "$root"
mount --bind "$root/work/out" "$root/work/out"
mount -o remount,bind,ro "$root"

# Runs the program in there, as its process 1. There is no /tmp, no /proc and no /dev.
inside() {
    env -i PATH=/usr/local/bin HOME=/home/nonroot DRAWOFF_CONNECTORS=/work/connectors \
        "$(command -v unshare)" --pid --fork --kill-child --root="$root" --wd=/work "${as_nonroot[@]}" -- \
        /usr/local/bin/drawoff "$@"
}

say "it starts"
inside --version
begun=$(date +%s%N)
for _ in $(seq 20); do inside --version > "$work/said"; done
echo "in $((($(date +%s%N) - begun) / 20000000)) ms, with what starts it"

say "it writes where it may, and nowhere else"
inside --source demo --destination sqlite:out/demo.db > "$work/said" 2> "$work/complaints" ||
    fail "$(cat "$work/complaints")"
grep -q 'total' "$work/said" || fail "$(cat "$work/said")"
[ -s "$root/work/out/demo.db" ] || fail "there is no database"
if inside --source demo > "$work/said" 2> "$work/complaints"; then fail "drawoff.db is on a read-only disk"; fi
echo "an SQLite file, $(stat -c %s "$root/work/out/demo.db") bytes"

say "names from /etc/hosts and from DNS, and the image's authorities"
for source in in-hosts in-dns; do
    rm -f "$work/asked"
    begun=$(date +%s%N)
    inside preview --source "$source" --stream items > "$work/said" 2> "$work/complaints" ||
        fail "$source: $(cat "$work/complaints")"
    grep -q 2 "$work/said" || fail "$(cat "$work/said")"
    echo "$source: read; $((($(cat "$work/asked") - begun) / 1000000)) ms from its start to the first request"
done
rm -f "$work/asked"
if inside preview --source stranger --stream items > "$work/said" 2> "$work/complaints"; then
    fail "a stranger's certificate was taken"
fi
grep -qi 'certificate' "$work/complaints" || fail "$(cat "$work/complaints")"
[ ! -e "$work/asked" ] || fail "a stranger was asked"
echo "stranger: refused"

say "SIGTERM to process 1"
rm -f "$work/asked"
inside --source in-hosts --stream slow --destination sqlite:out/slow.db > "$work/said" 2> "$work/complaints" &
starter=$!
for _ in $(seq 200); do
    [ -e "$work/asked" ] && break
    sleep 0.05
done
[ -e "$work/asked" ] || fail "it asked for nothing: $(cat "$work/complaints")"
begun=$(date +%s%N)
# The last of those who started each other.
program=$starter
while child=$(tr -d ' ' < "/proc/$program/task/$program/children") && [ -n "$child" ]; do program=$child; done
kill -TERM "$program"
for _ in $(seq 200); do
    kill -0 "$program" 2> "$work/complaints.kill" || break
    sleep 0.1
done
kill -KILL "$program" 2> "$work/complaints.kill" || true
code=0
wait "$starter" || code=$?
took=$((($(date +%s%N) - begun) / 1000000))
[ "$code" = 75 ] || fail "it ended with $code: $(cat "$work/complaints")"
[ "$took" -lt 8000 ] || fail "it took $took ms"
echo "ended with 75 after $took ms"

say "all is well"
