# shellcheck shell=sh disable=SC2154 # root is set by the script that sources this
# Sourced by the scripts beside it: a virtual environment of the checkout's own, made on the first start.
#
#   root=…                                  the checkout
#   bootstrap FOLDER VARIABLE LOCK          after it, $python is an interpreter with all that LOCK pins
#
# What the environment was made for stands in its stamp: the lock's hash, the interpreter, the checkout's path and
# pyproject.toml's hash. A stamp that fits costs the next start a few milliseconds. One that doesn't says what to do:
#
#   another checkout or pyproject.toml      install the checkout again: no network needed, so a checkout may be moved
#   another lock                            install what changed; when that fails, the environment stays as it was
#   another interpreter, or no stamp        make it anew: whatever was there was never finished, or can't run
#
# All messages go to stderr: stdout belongs to the command.

say() {
    printf 'kimi-proxy: %s\n' "$*" >&2
}

fail() {
    say "$@"
    exit 1
}

hash_of() {
    sum=$(sha256sum "$1") || fail "can't read $1"
    printf '%s' "${sum%% *}"
}

# Set $base_python to an interpreter that will do, or fail with what to install.
find_python() {
    for base_python in ${KIMI_PROXY_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$base_python" -c 'import ensurepip, venv' 2>/dev/null && return
            fail "$base_python can't make virtual environments; on Debian and Ubuntu: apt install python3-venv"
        fi
    done
    fail "Python 3.11 or newer is needed; on Debian and Ubuntu: apt install python3 python3-venv" \
        "(or set KIMI_PROXY_PYTHON to one)"
}

# run_pip TITLE ARGUMENTS…: pip in the environment, its output in a log, what it is doing in one line on stderr.
run_pip() {
    title=$1
    shift
    {
        code=0
        PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore \
            "$python" -m pip install --progress-bar off "$@" </dev/null 2>&1 || code=$?
        echo "pip ended with $code"
    } | {
        code=1
        seen=0
        while IFS= read -r line; do
            printf '%s\n' "$line" >>"$log"
            case $line in
                Collecting* | Processing*)
                    seen=$((seen + 1))
                    if [ -t 2 ]; then
                        printf '\rkimi-proxy: %s: %s packages … ' "$title" "$seen" >&2
                    elif [ $((seen % 10)) -eq 0 ]; then
                        say "$title: $seen packages …"
                    fi
                    ;;
                "Installing collected packages"*)
                    if [ -t 2 ]; then
                        printf '\rkimi-proxy: %s: %s packages, installing … ' "$title" "$seen" >&2
                    else
                        say "$title: installing …"
                    fi
                    ;;
                "pip ended with "*) code=${line#pip ended with } ;;
            esac
        done
        if [ -t 2 ]; then echo >&2; fi
        return "$code"
    }
}

pip_failed() {
    say "setting up $venv failed: $1; the end of what pip said:"
    tail -n 8 "$log" | sed -e '/^pip ended with/d' -e 's/^/    /' >&2
    exit 1
}

install_locked() {
    run_pip "$1" --require-hashes --no-deps -r "$lock"
}

install_checkout() {
    # Setuptools comes from the lock: nothing is fetched.
    run_pip "installing the checkout" --no-deps --no-build-isolation -e "$root" ||
        pip_failed "the checkout could not be installed"
}

make_anew() {
    find_python
    say "first start: setting up $venv with $("$base_python" --version) (once only) …"
    # Everything but our lock file, which this process holds.
    find "$venv" -mindepth 1 -maxdepth 1 ! -name "${guard##*/}" -exec rm -rf {} +
    echo '*' >"$venv/.gitignore"
    "$base_python" -m venv "$venv" >"$log" 2>&1 || pip_failed "Python could not make the environment"
    install_locked "downloading" || pip_failed "a package could not be installed (is there a network?)"
    install_checkout
}

# Bring the environment from the stamp $have to the stamp $want.
set_up() {
    have=$(cat "$stamp" 2>/dev/null) || have=
    [ "$have" = "$want" ] && return
    # Without a stamp an interrupted set-up is recognised, and done again from the start.
    rm -f "$stamp"
    : >"$log"
    if [ -z "$have" ] || [ "$(printf '%s\n' "$have" | sed -n 2p)" != "$(readlink -f -- "$python")" ] ||
        ! "$python" -m pip --version >/dev/null 2>&1; then
        make_anew
    elif [ "$(printf '%s\n' "$have" | sed -n 1p)" != "$lock_hash" ]; then
        say "the locked packages changed: updating $venv …"
        if ! install_locked "downloading"; then
            printf '%s\n' "$have" >"$stamp"
            pip_failed "a package could not be installed (is there a network?)"
        fi
        install_checkout
    else
        install_checkout
    fi
    what_is_wanted
    printf '%s\n' "$want" >"$stamp.new"
    mv "$stamp.new" "$stamp"
    say "ready"
}

what_is_wanted() {
    want="$lock_hash
$(readlink -f -- "$python" || echo none)
$project_hash
$root"
}

bootstrap() {
    venv=$1
    variable=$2
    lock=$root/bin/lock/$3
    case $venv in
        /*) ;;
        *) venv=$PWD/$venv ;;
    esac
    python=$venv/bin/python
    stamp=$venv/.kimi-proxy-stamp
    guard=$venv/.kimi-proxy-lock
    log=$venv/.kimi-proxy-setup.log
    lock_hash=$(hash_of "$lock")
    project_hash=$(hash_of "$root/pyproject.toml")
    what_is_wanted
    if [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
        return
    fi

    if [ -d "$venv" ] && [ ! -e "$guard" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv exists and was not made by kimi-proxy; remove it, or set $variable to another folder"
    fi
    if ! mkdir -p "$venv" 2>/dev/null || ! : 2>/dev/null >>"$guard"; then
        fail "$venv can't be written; set $variable to a folder that can"
    fi
    # Two first starts at once: the second waits, and then finds the work done. The subshell holds the lock, so that
    # no service started later inherits it.
    (
        flock -n 9 || {
            say "waiting for another start that sets up $venv …"
            flock 9
        }
        set_up
    ) 9>>"$guard" || exit 1
}
