#!/usr/bin/env bash
# everlogd, another server of the same protocol, and nginx, which answers 204 and stores nothing, in turn: POST of 256 bytes
# to one of 10,000 streams, each on a fresh store. It prints a Markdown table of medians and the ratio of each pair.
#
#   benches/http/compare.sh [ALTERNATIONS [SECONDS [CONNECTIONS]]]
#
# It needs wrk, nginx and curl, and `cargo install durable-streams --version 0.1.5` for the other server. Both run with their
# defaults, which make an append durable before it is answered. What it leaves out: anything but appends.
set -euo pipefail
cd "$(dirname "$0")/../.."

alternations="${1:-5}"
seconds="${2:-5}"
export STREAMS=10000
connections="${3:-64}"
scratch="target/bench-http"
port=14437

for tool in wrk nginx curl durable-streams-server; do
    command -v "$tool" >/dev/null || { echo "$tool is missing; see the head of $0" >&2; exit 1; }
done
cargo build --release --quiet --bin everlogd

server=""
cleanup() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT

# Requests a second, p50 and p99 in microseconds, and errors of one server.
measure() {
    rm -rf "$scratch" && mkdir -p "$scratch"
    case "$1" in
        everlogd) target/release/everlogd --init --data "$scratch/store" --cold none --listen "127.0.0.1:$port" \
            --admin-listen "127.0.0.1:$((port + 1))" >"$scratch/log" 2>&1 & ;;
        durable-streams) mkdir "$scratch/store"
            durable-streams-server --port "$port" --data-dir "$scratch/store" >"$scratch/log" 2>&1 & ;;
        nginx) cat >"$scratch/nginx.conf" <<CONF
daemon off; pid $PWD/$scratch/pid; error_log $PWD/$scratch/log; worker_processes auto;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000;
    server { listen 127.0.0.1:$port; location / { return 204; } } }
CONF
            nginx -c "$PWD/$scratch/nginx.conf" >"$scratch/log" 2>&1 & ;;
    esac
    server=$!
    local url="http://127.0.0.1:$port/v1/stream/bench"
    for _ in $(seq 100); do
        curl -s -o "$scratch/answer" "$url/none" && break
        sleep 0.1
    done
    # One connection, 10,000 streams.
    for n in $(seq 0 $((STREAMS - 1))); do
        echo "url = \"$url/$n\""
        echo "output = \"$scratch/answer\""
    done >"$scratch/urls"
    curl -s --fail -X PUT -H 'Content-Type: application/octet-stream' -K "$scratch/urls"
    wrk -t2 -c"$connections" -d"${seconds}s" -s benches/http/post.lua "http://127.0.0.1:$port" |
        sed -n 's/^RESULT //p'
    kill "$server"
    wait "$server" || true
    server=""
}

results="$(mktemp)"
for n in $(seq "$alternations"); do
    for name in everlogd durable-streams nginx; do
        line="$(measure "$name")"
        echo "$n $name $line" | tee -a "$results" >&2
    done
done
awk -v connections="$connections" '
    function median(list, count,   i, j, t) {
        for (i = 2; i <= count; i++) for (j = i; j > 1 && list[j] < list[j - 1]; j--) {
            t = list[j]; list[j] = list[j - 1]; list[j - 1] = t
        }
        return count % 2 ? list[(count + 1) / 2] : (list[count / 2] + list[count / 2 + 1]) / 2
    }
    function row(what, place,   n, i, lo, hi, line, list) {
        line = "| " what " |"
        for (n = 1; n <= 3; n++) {
            for (i = 1; i <= rounds; i++) list[i] = figure[names[n], i, place]
            middle[n] = median(list, rounds)
            line = line sprintf(" %d |", middle[n])
        }
        for (n = 2; n <= 3; n++) {
            lo = 1e9; hi = 0
            for (i = 1; i <= rounds; i++) {
                q = figure[names[1], i, place] / figure[names[n], i, place]
                if (q < lo) lo = q
                if (q > hi) hi = q
            }
            line = line sprintf(" %.2f (%.2f–%.2f) |", middle[1] / middle[n], lo, hi)
        }
        print line
    }
    { if ($6 > 0) { print "a run had errors: " $0; failed = 1; exit 1 }
      for (place = 3; place <= 5; place++) figure[$2, $1, place] = $place
      if ($1 > rounds) rounds = $1 }
    END {
        if (failed) exit 1
        split("everlogd durable-streams nginx", names, " ")
        print "| median of | everlogd | durable-streams 0.1.5 | nginx, 204 | to durable-streams | to nginx |"
        print "|---|---:|---:|---:|---:|---:|"
        row("requests/s, " connections " connections", 3)
        row("p50, µs", 4)
        row("p99, µs", 5)
    }' "$results"
rm -f "$results"
