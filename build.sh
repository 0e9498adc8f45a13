#!/usr/bin/env bash
# Builds, tests and shows CheckpointEngine.
#
# usage: ./build.sh STEP...
#   build   compile ahead of time: artifacts/bin/checkpoint-engine, artifacts/lib/libcheckpoint_engine.so, artifacts/include
#   test    build the solution and run every test; the last line is "N passed, N failed, N skipped"
#   demo    build, make a 2 GiB checkpoint, serve it, join it from a second process, print phases and rate
#   bench   the benchmarks, briefly, and what each allocates; BENCH_ARGS (BenchmarkDotNet's) run others: see bench/README.md
#   pack    NuGet packages in artifacts/packages
#   lab     the RDMA lab
#
# needs: the .NET 10 SDK; for 'build' and 'demo' also clang or gcc and zlib's headers. Nothing is installed by this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly artifacts=$PWD/artifacts
readonly runtime=linux-x64
# Release everywhere: it is what ships, and what the tests of allocation and speed measure means nothing in Debug.
readonly configuration=Release
export DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1 DOTNET_SKIP_FIRST_TIME_EXPERIENCE=1

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'build.sh: %s\n' "$*" >&2
    exit 1
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

# The package manager's words for a package, or a plain sentence where it is unknown.
install_hint() {
    if command -v apt-get >/dev/null; then
        echo "apt-get install -y $1"
    elif command -v dnf >/dev/null; then
        echo "dnf install -y $2"
    else
        echo "install $1 (Debian's name) with your package manager"
    fi
}

need_sdk() {
    command -v dotnet >/dev/null || fail "there is no dotnet; the .NET 10 SDK is at https://dot.net/download"
    dotnet --list-sdks | grep -q '^10\.' || fail "dotnet has no 10.0 SDK (it has: $(dotnet --list-sdks | cut -d' ' -f1 | paste -sd' ')); get it at https://dot.net/download"
}

# Compiling ahead of time links with a C compiler and zlib.
need_native_toolchain() {
    if command -v clang >/dev/null; then
        c_compiler=clang
    elif command -v gcc >/dev/null; then
        c_compiler=gcc
    else
        fail "there is no C compiler; $(install_hint clang clang)"
    fi
    echo '#include <zlib.h>' | "$c_compiler" -E -x c - >/dev/null 2>&1 || fail "zlib.h is missing; $(install_hint zlib1g-dev zlib-devel)"
    command -v objcopy >/dev/null || fail "objcopy is missing; $(install_hint binutils binutils)"
}

publish() {
    local project=$1 output=$2
    dotnet publish "$project" -c "$configuration" -r "$runtime" -o "$output" -p:CppCompilerAndLinker="$c_compiler" --nologo -v quiet
}

step_build() {
    need_sdk
    need_native_toolchain
    say "the command"
    publish CheckpointEngine.Cli "$artifacts/publish/cli"
    mkdir -p "$artifacts/bin" "$artifacts/lib" "$artifacts/include"
    install -m 755 "$artifacts/publish/cli/checkpoint-engine" "$artifacts/bin/"
    say "the library"
    publish CheckpointEngine.Native "$artifacts/publish/native"
    install -m 755 "$artifacts/publish/native/libcheckpoint_engine.so" "$artifacts/lib/"
    ln -sf libcheckpoint_engine.so "$artifacts/lib/libcheckpoint_engine.so.0"
    find interop-headers -maxdepth 1 \( -name '*.h' -o -name '*.hpp' -o -name '*.py' \) -exec install -m 644 {} "$artifacts/include/" \;
    check_library
    "$artifacts/bin/checkpoint-engine" --version
    (cd "$artifacts" && ls -l bin lib include)
}

# The header compiles as strict C and C++, and the library exports what the list says: no name more, no name less.
check_library() {
    local exported
    exported=$(nm -D --defined-only "$artifacts/lib/libcheckpoint_engine.so" | sed 's/.* //;s/@.*//' | sort)
    diff <(echo "$exported") <(sort interop-headers/checkpoint_engine.exports) \
        || fail "libcheckpoint_engine.so exports other names than interop-headers/checkpoint_engine.exports lists"
    echo '#include "checkpoint_engine.h"' \
        | "$c_compiler" -x c -std=c99 -Wall -Wextra -Wpedantic -Werror -I interop-headers -fsyntax-only -
    if command -v "${c_compiler/%cc/++}" >/dev/null && [[ $c_compiler == gcc ]]; then
        echo '#include "checkpoint_engine.h"' | g++ -x c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror -I interop-headers -fsyntax-only -
    fi
}

step_test() {
    need_sdk
    say "building"
    dotnet build CheckpointEngine.slnx -c "$configuration" --nologo -v quiet
    passed=0 failed=0 skipped=0 broken=()
    local project
    for project in tests/*.Tests/*.csproj; do
        run_tests "$(basename "$project" .csproj)" --progress off --no-ansi --show-test-results failed,skipped
    done
    run_tests CheckpointEngine.AllocationTests
    run_tests CheckpointEngine.Fuzz --seconds "${FUZZ_SECONDS:-3}"
    if [[ ${#broken[@]} -ne 0 ]]; then
        printf '\n'
        printf 'broken: %s\n' "${broken[@]}"
    fi
    failed=$((failed + ${#broken[@]}))
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [[ $failed -eq 0 && $passed -ne 0 ]]
}

# Runs one test program and adds what it counts at its end: "succeeded: N" and so on (xunit), or "N passed, N failed, N skipped" (our own).
run_tests() {
    local name=$1 status=0 log counts
    local program=tests/$name/bin/$configuration/net10.0/$name
    shift
    if [[ ! -x $program ]]; then
        broken+=("$name: not built")
        return
    fi
    say "$name"
    log=$(mktemp)
    "$program" "$@" 2>&1 | tee "$log" || status=$?
    if [[ -n $(summary total "$log") ]]; then
        counts="$(summary succeeded "$log") $(summary failed "$log") $(summary skipped "$log")"
    else
        counts=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$log" | tail -1)
    fi
    rm -f "$log"
    if [[ -z $counts ]]; then
        broken+=("$name: ended with status $status and no summary")
        return
    fi
    local p f s
    read -r p f s <<<"$counts"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [[ $status -ne 0 && $f -eq 0 ]]; then
        broken+=("$name: no test failed, but it ended with status $status")
    fi
}

# A number of the summary that Microsoft.Testing.Platform prints at its end; empty when there is none.
summary() { sed -nE "s/^ *$1: *([0-9]+).*/\1/p" "$2" | tail -1; }

step_demo() {
    step_build
    dotnet build tests/MakeCheckpoint -c "$configuration" --nologo -v quiet
    local directory server='' ready='' http engine=$artifacts/bin/checkpoint-engine
    directory=$(mktemp -d "$(roomy_directory)/checkpoint-engine-demo.XXXXXX")
    # shellcheck disable=SC2064
    trap "stop_demo '$directory'" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    say "a checkpoint with the tensors of Qwen2.5-7B, cut to 2 GiB"
    "tests/MakeCheckpoint/bin/$configuration/net10.0/MakeCheckpoint" --out "$directory/model" --model qwen2.5-7b --gib 2 --shards 4
    say "checkpoint-engine serve --checkpoint qwen2.5-7b=$directory/model"
    exec {server}< <(exec "$engine" serve --checkpoint "qwen2.5-7b=$directory/model" --listen http://127.0.0.1:0 --json)
    demo_server=$!
    read -r ready <&"$server" || fail "the server ended before it was ready"
    echo "$ready"
    [[ $ready =~ \"http\":\"([^\"]+)\" ]] || fail "no address in the server's ready line: $ready"
    http=${BASH_REMATCH[1]}
    "$engine" metas --metas-url "$http/v1/metas"
    say "checkpoint-engine join --metas-url $http/v1/metas (twice into the same memory: cold, then warm)"
    "$engine" join --metas-url "$http/v1/metas" --repeat 2 --require-verify
}

demo_server=''
stop_demo() {
    if [[ -n $demo_server ]]; then
        kill -TERM "$demo_server" 2>/dev/null || true
        wait "$demo_server" 2>/dev/null || true
    fi
    rm -rf "$1"
}

# Memory when it has room for the files, the joiner's copy and some air; else a disk.
roomy_directory() {
    local needed_kib=$((3 * 1024 * 1024)) free_kib=0 available_kib
    available_kib=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
    if [[ -d /dev/shm && -w /dev/shm ]]; then
        free_kib=$(df --output=avail -k /dev/shm | tail -1)
    fi
    if ((free_kib > needed_kib && available_kib > 2 * needed_kib)); then
        echo /dev/shm
    else
        echo "${TMPDIR:-/tmp}"
    fi
}

step_bench() {
    need_sdk
    # shellcheck disable=SC2086  # several words on purpose
    dotnet run -c "$configuration" --project bench/CheckpointEngine.Benchmarks -- ${BENCH_ARGS:---check-allocations}
}

step_pack() {
    need_sdk
    [[ -f README.md ]] || fail "README.md is missing; it goes into the packages"
    local project
    for project in CheckpointEngine.Core CheckpointEngine.Http; do
        dotnet pack "$project" -c "$configuration" -o "$artifacts/packages" --nologo -v quiet
    done
    ls -l "$artifacts/packages"
}

step_lab() { fail "the RDMA lab comes with the RDMA transport; there is nothing to start yet"; }

if [[ $# -eq 0 ]]; then
    usage
    exit 0
fi
for step in "$@"; do
    case $step in
        build | test | demo | bench | pack | lab) "step_$step" ;;
        -h | --help | all) usage ;;
        *)
            usage >&2
            fail "there is no step '$step'"
            ;;
    esac
done
