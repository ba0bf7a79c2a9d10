#!/usr/bin/env bash
# everlogd and another server of the same protocol, alternating: POST of 256 bytes to one of 10,000 streams, over 64
# connections, each on a fresh store. It prints a Markdown table of medians and the ratio of each pair.
#
#   benches/http/compare.sh [ALTERNATIONS [SECONDS]]
#
# It needs wrk and curl, and `cargo install durable-streams --version 0.1.5` for the other server. Both run with their
# defaults, which make an append durable before it is answered. What it leaves out: anything but appends.
set -euo pipefail
cd "$(dirname "$0")/../.."

alternations="${1:-5}"
seconds="${2:-5}"
export STREAMS=10000
connections=64
scratch="target/bench-http"
port=14437

for tool in wrk curl durable-streams-server; do
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
    for name in everlogd durable-streams; do
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
    { if ($6 > 0) { print "a run had errors: " $0; exit 1 }
      if ($2 == "everlogd") { e++; er[e] = $3; e50[e] = $4; e99[e] = $5 }
      else { d++; dr[d] = $3; d50[d] = $4; d99[d] = $5; q[d] = er[d] / $3 } }
    END {
        lo = hi = q[1]; for (i = 1; i <= d; i++) { if (q[i] < lo) lo = q[i]; if (q[i] > hi) hi = q[i] }
        print "| median of | everlogd | durable-streams 0.1.5 | ratio |\n|---|---:|---:|---:|"
        a = median(er, e); b = median(dr, d)
        printf "| requests/s, %d connections | %d | %d | %.2f (%.2f–%.2f) |\n", connections, a, b, a / b, lo, hi
        a = median(e50, e); b = median(d50, d); printf "| p50, µs | %d | %d | %.2f |\n", a, b, a / b
        a = median(e99, e); b = median(d99, d); printf "| p99, µs | %d | %d | %.2f |\n", a, b, a / b
    }' "$results"
rm -f "$results"
