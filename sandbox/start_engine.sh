#!/usr/bin/env bash
# A Docker engine of its own for the sandbox, where none is running: everything it writes lies in one folder.
#
#   sandbox/start_engine.sh start FOLDER   starts dockerd (as root) and prints its DOCKER_HOST
#   sandbox/start_engine.sh stop FOLDER    stops that dockerd and removes what it wrote
#   sandbox/start_engine.sh ensure FOLDER  uses the engine that answers already, else installs one where it can, and starts it
#
# It needs no bridge and no iptables rules, because containers of the sandbox have no network.
set -euo pipefail

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit 2
}

fail() {
  echo "start_engine: $*" >&2
  exit 3
}

# The plain HTTP of the engine's API: newer Debians install the engine without the docker command.
answers() {
  python3 - "$1" <<'PY' 2>/dev/null
import http.client, socket, sys
from urllib.parse import urlsplit

at = urlsplit(sys.argv[1])
if at.scheme == "unix":
    connection = http.client.HTTPConnection("localhost", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    connection.sock.connect(at.path)
else:
    connection = http.client.HTTPConnection(at.hostname, at.port or 2375, timeout=5)
connection.request("GET", "/_ping")
sys.exit(connection.getresponse().status != 200)
PY
}

install_engine() {
  [[ $(id -u) == 0 ]] || fail "dockerd is not installed, and only root can install it: install Docker, or set DOCKER_HOST"
  command -v apt-get >/dev/null || fail "dockerd is not installed, and this is no Debian: install Docker, or set DOCKER_HOST"
  echo "start_engine: installing docker.io" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >&2 || fail "'apt-get update' failed, so docker.io cannot be installed"
  apt-get install -qq -y --no-install-recommends docker.io >/dev/null || fail "'apt-get install docker.io' failed"
  command -v dockerd >/dev/null || fail "docker.io is installed, but dockerd is not on the PATH ($PATH)"
}

mount_cgroups() {
  [[ -d /sys/fs/cgroup && -n "$(ls -A /sys/fs/cgroup)" ]] && return
  command -v cgroupfs-mount >/dev/null || apt-get install -qq -y --no-install-recommends cgroupfs-mount >/dev/null || true
  cgroupfs-mount || fail "no cgroups are mounted at /sys/fs/cgroup, and mounting them failed: limits cannot be enforced here"
}

is_running() { # the pid may have become another program's
  local pid
  pid=$(cat "$1/docker.pid" 2>/dev/null) && [[ "$(cat "/proc/$pid/comm" 2>/dev/null)" == dockerd ]]
}

start() {
  local folder=$1
  [[ $(id -u) == 0 ]] || fail "dockerd has to be started by root; as another user set DOCKER_HOST to an engine that runs"
  command -v dockerd >/dev/null || install_engine
  mkdir -p "$folder"
  folder=$(cd "$folder" && pwd)
  local host="unix://$folder/docker.sock"
  [[ ${#folder} -le 80 ]] || fail "$folder is too long a path for a socket (80 characters at most)"
  if is_running "$folder" && answers "$host"; then
    echo "$host"
    return
  fi
  mount_cgroups
  # A daemon that was killed leaves the pid of its containerd, and waits for that one in vain.
  rm -f "$folder/docker.pid" "$folder/exec/containerd/containerd.pid"
  setsid dockerd --iptables=false --ip6tables=false --bridge=none --log-level warn \
    --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/docker.pid" -H "$host" \
    >"$folder/docker.log" 2>&1 </dev/null &
  local daemon=$!
  for _ in $(seq 300); do
    if answers "$host"; then
      echo "$host"
      return
    fi
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
  done
  kill "$daemon" 2>/dev/null || true
  echo "start_engine: the end of $folder/docker.log:" >&2
  tail -n 15 "$folder/docker.log" >&2
  fail "dockerd did not get ready; a container needs to be privileged to run an engine inside"
}

stop() {
  local folder=$1
  [[ -d $folder ]] || return 0
  folder=$(cd "$folder" && pwd)
  if is_running "$folder"; then
    local pid
    pid=$(cat "$folder/docker.pid")
    kill "$pid" # it stops its containers on the way
    for _ in $(seq 300); do
      is_running "$folder" || break
      sleep 0.1
    done
    if is_running "$folder"; then kill -9 "$pid"; fi
  fi
  # Engines since 23 leave a network namespace mounted.
  awk -v below="$folder/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r mounted; do
    umount "$mounted" || true
  done
  rm -rf --one-file-system "$folder"/{data,exec,docker.pid,docker.sock,docker.log}
  rmdir "$folder" 2>/dev/null || true
}

ensure() {
  local there=${DOCKER_HOST:-unix:///var/run/docker.sock}
  if ! answers "$there"; then
    [[ -z ${DOCKER_HOST:-} ]] || fail "DOCKER_HOST = $DOCKER_HOST does not answer: start that engine, or unset the variable"
    command -v dockerd >/dev/null || install_engine
    # Installing the package starts the engine on some systems.
    answers "$there" || there=$(start "$1")
  fi
  echo "$there"
}

[[ $# == 2 ]] || usage
case $1 in
start) start "$2" ;;
stop) stop "$2" ;;
ensure) ensure "$2" ;;
*) usage ;;
esac
