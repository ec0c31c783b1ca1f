# Sourced by the commands in this folder: where the repository is, and which Python runs the file that does the work.
# shellcheck shell=bash

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# .venv is this project's own: with its modules compiled once, every later start is faster.
unset PYTHONDONTWRITEBYTECODE

# Whether the arguments ask for a command's help, which any Python can print.
asks_for_help() {
    case " $* " in *" --help "* | *" -h "*) true ;; *) false ;; esac
}

# Becomes PYTHON FILE ARGUMENTS..., the file's path from the repository on; the file may import the app's `lib`.
become() {
    local python=$1 file=$2
    shift 2
    export PYTHONPATH=$root/apps/sam_app${PYTHONPATH:+:$PYTHONPATH}
    exec "$python" "$root/$file" "$@"
}

# Runs a file with all packages, which are installed first if need be.
run_with_packages() {
    "$root/scripts/setup"
    become "$root/.venv/bin/python" "$@"
}

# Runs a file that needs Python alone.
run_without_packages() {
    local python
    python=$("$root/scripts/setup" --which-python)
    become "$python" "$@"
}

# Runs a file with all packages, but for its help, which needs none.
run() {
    if asks_for_help "$@"; then run_without_packages "$@"; else run_with_packages "$@"; fi
}
