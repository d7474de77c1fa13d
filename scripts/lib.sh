# shellcheck shell=bash
# What the scripts share: an environment in .venv that is right for the tree as it is now.
# To be sourced by a script that has set -euo pipefail.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python
GENERATED=$ROOT/clients/python/switchboard/v1
INSTALL_STAMP=$VENV/.switchboard-installed
GENERATE_STAMP=$VENV/.switchboard-generated

# Progress goes to standard error: standard output belongs to the program that the script runs.
say() { printf '%s\n' "$*" >&2; }

die() {
  say "$0: $*"
  exit 1
}

# --- Debian packages ------------------------------------------------------------------------------

# Runs as root, with packages as arguments. What is installed here is for its programs: its services are not
# started (invoke-rc.d asks policy-rc.d), nor at the next boot.
# shellcheck disable=SC2016 # expanded by the shell that runs it
INSTALL_DEBIAN='
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap "rm -f $policy" EXIT
  trap "exit 1" INT TERM
  printf "#!/bin/sh\nexit 101\n" >"$policy"
  chmod 755 "$policy"
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
if [ -d /run/systemd/system ]; then
  units=$(dpkg -L "$@" | sed -n "s,.*/lib/systemd/system/\([^/@]*\.\(service\|socket\)\)\$,\1,p" | sort -u)
  [ -z "$units" ] || systemctl disable --quiet $units
fi
'

# need_debian WHY PACKAGE...: install packages, or say what to run.
need_debian() {
  local why=$1
  shift
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
    # Without a terminal nobody can answer sudo's question.
    [ -t 0 ] || as_root+=(--non-interactive)
  fi
  if ! command -v apt-get >/dev/null || { [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; }; then
    die "$why. Install $* (on Debian, as root: apt-get install $*) and run this again"
  fi
  say "Installing Debian packages: $*"
  "${as_root[@]}" sh -c "$INSTALL_DEBIAN" sh "$@" >&2 ||
    die "$why, and apt-get failed. As root, run: apt-get install $*"
}

# need_programs WHY PROGRAM:PACKAGE...: install the Debian packages of those programs that are missing.
need_programs() {
  local why=$1 entry missing=()
  shift
  for entry in "$@"; do
    command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
  done
  [ ${#missing[@]} -eq 0 ] || need_debian "$why ${missing[*]}" "${missing[@]}"
}

# need_servers WHY: RabbitMQ and Redis, to start private ones of. The paths rather than the names where
# /usr/sbin has the program, which is not on every user's PATH.
need_servers() {
  need_programs "$1" /usr/lib/rabbitmq/bin/rabbitmq-server:rabbitmq-server epmd:erlang-base \
    redis-server:redis-server
}

# --- Python ---------------------------------------------------------------------------------------

# Prints the interpreter to make the environment with: the first that is new enough, but rather one
# that can make a virtual environment as it is.
find_python() {
  local name path found=''
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    path=$(command -v "$name") || continue
    "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if "$path" -c 'import ensurepip, venv' 2>/dev/null; then
      printf '%s\n' "$path"
      return
    fi
    found=${found:-$path}
  done
  [ -n "$found" ] || die "Python 3.11 or newer is needed, and no python3 here is"
  local version
  version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  need_debian "$found cannot make a virtual environment" "python$version-venv"
  printf '%s\n' "$found"
}

# Makes .venv, or makes it anew if its Python is gone or too old, or if the tree was moved: the
# programs in it hold its path.
make_venv() {
  if [ -x "$PYTHON" ] && [ "$(cat "$VENV/.switchboard-root" 2>/dev/null)" = "$ROOT" ] &&
    "$PYTHON" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    return
  fi
  local python
  python=$(find_python)
  say "Making a virtual environment in .venv with $("$python" --version)"
  rm -f "$INSTALL_STAMP" "$GENERATE_STAMP"
  "$python" -m venv --clear "$VENV"
  printf '%s\n' "$ROOT" >"$VENV/.switchboard-root"
}

# pip says only what is wrong.
pip_install() {
  (cd "$ROOT" && "$PYTHON" -m pip install --quiet --quiet --disable-pip-version-check \
    --constraint constraints.txt "$@")
}

# install_extra EXTRA: the build's own requirements first, so that the build needs no environment of its own
# and leaves behind what scripts/gen needs.
install_extra() {
  local -a build
  mapfile -t build < <("$PYTHON" -c '
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")
' "$ROOT/pyproject.toml")
  say "Installing the build tools"
  pip_install "${build[@]}"
  say "Installing switchboard-mesh[$1], generating the stubs"
  pip_install --no-build-isolation --editable ".[$1]"
}

install_digest() {
  (cd "$ROOT" && sha256sum pyproject.toml constraints.txt scripts/build_hook.py | sha256sum)
}

generate_digest() {
  (cd "$ROOT" && find protos -name '*.proto' -print0 | LC_ALL=C sort -z |
    xargs -0 sha256sum scripts/build_hook.py | sha256sum)
}

# is_installed DIGEST EXTRA: dev holds everything that server does.
is_installed() {
  [ -x "$PYTHON" ] && [ -f "$INSTALL_STAMP" ] || return 1
  case "$(<"$INSTALL_STAMP")" in
  "$1 $ROOT $2" | "$1 $ROOT dev") return 0 ;;
  *) return 1 ;;
  esac
}

is_generated() {
  [ -f "$GENERATED/__init__.py" ] && [ -f "$GENERATE_STAMP" ] && [ "$(<"$GENERATE_STAMP")" = "$1" ]
}

generate() {
  say "Generating the stubs"
  "$PYTHON" "$ROOT/scripts/build_hook.py" >&2
}

# set_up EXTRA: bring .venv and the generated code in line with the tree. Costs a few milliseconds when
# there is nothing to do. A stamp is written last, so what was interrupted is done again; a second
# script waits for the first.
set_up() {
  local installed generated
  installed=$(install_digest)
  generated=$(generate_digest)
  if is_installed "$installed" "$1" && is_generated "$generated"; then
    return
  fi
  { : >>"$VENV.lock"; } 2>/dev/null ||
    die "this user cannot write to $ROOT, where .venv is to be made or brought up to date. Run $0 as the" \
      "user that owns it, or copy the tree to a folder of this user's"
  (
    flock 9
    if ! is_installed "$installed" "$1"; then
      make_venv
      rm -f "$INSTALL_STAMP" "$GENERATE_STAMP"
      install_extra "$1"
      printf '%s\n' "$generated" >"$GENERATE_STAMP"
      printf '%s\n' "$installed $ROOT $1" >"$INSTALL_STAMP"
    elif ! is_generated "$generated"; then
      generate
      printf '%s\n' "$generated" >"$GENERATE_STAMP"
    fi
  ) 9>"$VENV.lock"
}

# --- npm ------------------------------------------------------------------------------------------

# install_npm FOLDER: the packages that its package.json names, with the npm of the environment. No lock file: the
# versions in package.json are exact, and a lock would record where this machine downloaded them from.
install_npm() {
  local folder=$ROOT/$1 stamp digest
  stamp=$folder/node_modules/.switchboard-installed
  digest=$(sha256sum <"$folder/package.json")
  if [ -f "$stamp" ] && [ "$(<"$stamp")" = "$digest" ]; then
    return
  fi
  (
    flock 9
    say "Installing the npm packages of $1"
    rm -f "$stamp"
    PATH=$VENV/bin:$PATH npm install --prefix "$folder" --no-package-lock --no-audit --no-fund --ignore-scripts --silent >&2 ||
      die "npm could not install what $1/package.json names"
    printf '%s\n' "$digest" >"$stamp"
  ) 9>"$VENV.lock"
}
