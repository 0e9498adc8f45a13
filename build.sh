#!/usr/bin/env bash
# Builds, tests and shows CheckpointEngine.
#
# usage: ./build.sh STEP...
#   build   compile ahead of time: artifacts/bin/checkpoint-engine, artifacts/lib/libcheckpoint_engine.so, artifacts/include, artifacts/python
#   cross   the library for linux-arm64, with Debian's cross compiler: artifacts/linux-arm64
#   test    build the solution and run every test; the last line is "N passed, N failed, N skipped", before it how long each part took. After 'build'
#           in the same call the command is the one that 'build' made. With LAB=1 the tests that need RDMA devices run in the guest of 'lab', else
#           they are skipped
#   demo    build, make a 2 GiB checkpoint, serve it, join it from a second process, print phases and rate
#   bench   the benchmarks, briefly, and what each allocates; BENCH_ARGS (BenchmarkDotNet's) run others; BENCH=compare compares us with other
#           tools, BENCH=NAME runs another whole-process benchmark, with options as in BENCH="compare --install": see bench/README.md
#   pack    build, then NuGet packages and the tarball in artifacts/packages; RepositoryUrl tells where the sources are if no git remote does
#   lab     the tests that need RDMA devices or bad lines, in a small virtual machine that has them in software: see tests/rdma-lab/README.md. They test what lies
#           in artifacts/bin; 'build lab' tests what the sources say now
#   interop our processes beside real Mooncake engines, over TCP, through their library, and over RDMA where the lab runs: a table of pairs and
#           releases. CHECKPOINT_ENGINE_MOONCAKE_PEERS names the folder with the releases: see docs/interop.md
#
# needs: the .NET 10 SDK; for 'build', 'demo' and 'pack' also clang or gcc and zlib's headers; for 'cross' gcc-aarch64-linux-gnu and
# libc6-dev-arm64-cross; for 'lab' the packages that tests/rdma-lab/lab --missing prints. Nothing is installed by this script, unless BENCH asks for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly artifacts=$PWD/artifacts
readonly runtime=linux-x64
readonly soname=libcheckpoint_engine.so.0
readonly library_limit=$((8 * 1024 * 1024))
version=$(sed -n 's:.*<Version>\(.*\)</Version>.*:\1:p' Directory.Build.props)
readonly version
built=''
passed=0 failed=0 skipped=0 broken=()   # by run_tests, until tell_counts
failures=()   # what the programs said of each test that failed, in pieces
took=()                                 # "seconds, tab, what" of each step and test program
beside=''                               # the process group of what runs in the background
through=() where=''                     # words before a test program's, and what they mean
# Release everywhere: it is what ships, and what the tests of allocation and speed measure means nothing in Debug.
readonly configuration=Release
readonly lab_tests=CheckpointEngine.Rdma.Tests
readonly lab_devices=4
# What runs while the guests do, which leave half of two cores idle; whatever measures rates or how soon something comes runs after them.
readonly beside_guests="CheckpointEngine.Http.Tests CheckpointEngine.Native.Tests CheckpointEngine.Package.Tests CheckpointEngine.Python.Tests"
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

# publish PROJECT RUNTIME OUTPUT C_COMPILER [MORE...]
publish() {
    dotnet publish "$1" -c "$configuration" -r "$2" -o "$3" -p:CppCompilerAndLinker="$4" "${@:5}" --nologo -v quiet
}

step_build() {
    need_sdk
    need_native_toolchain
    say "the command"
    publish CheckpointEngine.Cli "$runtime" "$artifacts/publish/cli" "$c_compiler"
    install -D -m 755 -t "$artifacts/bin" "$artifacts/publish/cli/checkpoint-engine"
    say "the library"
    publish CheckpointEngine.Native "$runtime" "$artifacts/publish/native" "$c_compiler"
    lay_out_library "$artifacts/publish/native" "$artifacts"
    check_exports "$artifacts/lib/$soname" nm
    check_size "$artifacts/lib/$soname"
    check_headers
    "$artifacts/bin/checkpoint-engine" --version
    (cd "$artifacts" && ls -l bin lib include)
    built=yes
}

step_cross() {
    need_sdk
    local prefix=aarch64-linux-gnu
    command -v $prefix-gcc >/dev/null || fail "there is no $prefix-gcc; $(install_hint 'gcc-aarch64-linux-gnu libc6-dev-arm64-cross' gcc-aarch64-linux-gnu)"
    say "the library for linux-arm64"
    publish CheckpointEngine.Native linux-arm64 "$artifacts/publish/native-arm64" $prefix-gcc -p:ObjCopyName=$prefix-objcopy
    lay_out_library "$artifacts/publish/native-arm64" "$artifacts/linux-arm64"
    check_exports "$artifacts/linux-arm64/lib/$soname" $prefix-nm
    ls -l "$artifacts/linux-arm64/lib"
}

# lay_out_library PUBLISHED PREFIX: the library and what finds it, as a distribution lays them out: the file under its version, links for the loader
# (the soname) and the linker. The symbols keep the name that the library's .gnu_debuglink has for them.
lay_out_library() {
    local published=$1 prefix=$2 template folder
    rm -rf "${prefix:?}"/{lib,include,python}
    mkdir -p "$prefix"/{lib/pkgconfig,lib/cmake/CheckpointEngine,include,python}
    install -m 755 "$published/libcheckpoint_engine.so" "$prefix/lib/libcheckpoint_engine.so.$version"
    install -m 644 "$published/libcheckpoint_engine.so.dbg" "$prefix/lib/"
    ln -s "libcheckpoint_engine.so.$version" "$prefix/lib/$soname"
    ln -s "$soname" "$prefix/lib/libcheckpoint_engine.so"
    find interop-headers -maxdepth 1 \( -name '*.h' -o -name '*.hpp' \) -exec install -m 644 -t "$prefix/include" {} +
    find interop-headers -maxdepth 1 -name '*.py' -exec install -m 644 -t "$prefix/python" {} +
    for template in interop-headers/packaging/*.in; do
        folder=$prefix/lib/pkgconfig
        [[ $template != *.cmake.in ]] || folder=$prefix/lib/cmake/CheckpointEngine
        sed "s/@VERSION@/$version/g; s/@SONAME@/$soname/g" "$template" >"$folder/$(basename "$template" .in)"
    done
}

# check_exports FILE NM: the library exports what the list says: no name more, no name less.
check_exports() {
    local exported
    exported=$("$2" -D --defined-only "$1" | sed 's/.* //;s/@.*//' | sort)
    diff <(echo "$exported") <(sort interop-headers/checkpoint_engine.exports) \
        || fail "$1 exports other names than interop-headers/checkpoint_engine.exports lists"
}

# The limit is for what ships; linux-arm64, whose segments lie on pages of 64 KiB, comes out a few percent larger.
check_size() {
    local bytes
    bytes=$(stat -L -c %s "$1")
    ((bytes <= library_limit)) || fail "$1 has $bytes bytes, more than the $library_limit it may have"
}

# The header compiles as strict C and C++.
check_headers() {
    echo '#include "checkpoint_engine.h"' \
        | "$c_compiler" -x c -std=c99 -Wall -Wextra -Wpedantic -Werror -I interop-headers -fsyntax-only -
    if command -v "${c_compiler/%cc/++}" >/dev/null && [[ $c_compiler == gcc ]]; then
        echo '#include "checkpoint_engine.h"' | g++ -x c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror -I interop-headers -fsyntax-only -
    fi
}

step_test() {
    need_sdk
    say "building"
    timed "the solution" dotnet build CheckpointEngine.slnx -c "$configuration" --nologo -v quiet
    local project name reason='' lab='' during=() after=()
    if [[ ${LAB:-0} == 1 ]]; then
        lab_is_ready && lab=yes || reason=$lab_reason
    fi
    for project in tests/*.Tests/*.csproj; do
        name=$(basename "$project" .csproj)
        if [[ -n $lab && $name == "$lab_tests" ]]; then
            beside run_guests
        elif [[ " $beside_guests " == *" $name "* ]]; then
            during+=("$name")
        else
            after+=("$name")
        fi
    done
    # The guests take longest, and first.
    [[ -z $lab ]] || through=(nice -n 5)
    for name in "${during[@]}"; do
        run_xunit "$name"
    done
    run_tests CheckpointEngine.Fuzz --seconds "${FUZZ_SECONDS:-3}"
    through=()
    [[ -z $lab ]] || take_in
    for name in "${after[@]}"; do
        if [[ $name == CheckpointEngine.Cli.Tests && -n $built ]]; then
            run_command_tests
        else
            run_xunit "$name"
        fi
    done
    run_tests CheckpointEngine.AllocationTests
    if [[ -n $reason ]]; then
        printf '\n!! THE RDMA TESTS DID NOT RUN, they count as skipped: %s\n' "$reason"
    elif [[ -z $lab ]]; then
        printf '\nthe tests that need RDMA devices were skipped: ./build.sh lab, or LAB=1 ./build.sh test, runs them in a guest that has some\n'
    fi
    tell_times
    tell_counts
}

# The command as 'build' has just made it; of the same as a tool of .NET, which is compiled as it runs, what it does when nothing goes wrong, and 64 of
# them at once, whose bounds were measured so.
run_command_tests() {
    CHECKPOINT_ENGINE_TEST_COMMAND=$artifacts/bin/checkpoint-engine run_xunit CheckpointEngine.Cli.Tests --filter-not-class '*.ManyJoinersTests'
    where=', the tool'
    run_xunit CheckpointEngine.Cli.Tests --filter-class '*.ManyJoinersTests' '*.CommandLineTests' '*.LocalPlaneTests' '*.ServeAndJoinTests' '*.TelemetryTests' '*.UpdateTests'
    where=''
}

step_lab() {
    need_sdk
    lab_is_ready || {
        printf 'build.sh: %s\n' "$lab_reason" >&2
        exit 77
    }
    [[ -x $artifacts/bin/checkpoint-engine ]] || step_build
    say "building"
    dotnet build "tests/$lab_tests" -c "$configuration" --nologo -v quiet
    dotnet build tests/CheckpointEngine.Cli.Tests -c "$configuration" --nologo -v quiet
    run_guests
    tell_times
    tell_counts
}

# Whether the lab can run here; else lab_reason says why not. A lab that should run and does not is a failure: that is told by running it.
lab_is_ready() {
    local status=0
    lab_reason=$(tests/rdma-lab/lab --setup 2>&1 >/dev/null) || status=$?
    [[ $status -ne 77 ]]
}

# run_lab_tests [OPTION...]: the tests that need RDMA devices, in the guest.
run_lab_tests() { run_in_lab "$lab_tests" "$@"; }

# run_in_lab NAME [OPTION...]: a test program, in the guest.
run_in_lab() {
    through=(tests/rdma-lab/lab --devices "$lab_devices" --mem 3G --timeout 1800 -- \
        env CHECKPOINT_ENGINE_LAB_DEVICES="$lab_devices" CHECKPOINT_ENGINE_TEST_COMMAND="$artifacts/bin/checkpoint-engine" \
        DOTNET_TieredPGO=0 DOTNET_gcConcurrent=0 TESTINGPLATFORM_TELEMETRY_OPTOUT=1)
    where=', in the guest'
    run_xunit "$@"
    through=() where=''
}

run_guests() {
    run_lab_tests
    run_network_tests
}

# Joins over bad lines: the guest's kernel has netem, and the host's may not.
run_network_tests() { run_in_lab CheckpointEngine.Cli.Tests --filter-class '*.NetworkFaultTests'; }

step_interop() {
    need_sdk
    local peers=${CHECKPOINT_ENGINE_MOONCAKE_PEERS:-} table release
    [[ -n $peers ]] || {
        printf '!! NOTHING WAS RUN: CHECKPOINT_ENGINE_MOONCAKE_PEERS names no folder with releases of Mooncake (docs/interop.md)\n' >&2
        exit 77
    }
    table=$(mktemp)
    say "building"
    dotnet build tests/CheckpointEngine.Cli.Tests -c "$configuration" --nologo -v quiet
    CHECKPOINT_ENGINE_INTEROP_TABLE=$table run_xunit CheckpointEngine.Cli.Tests --filter-trait Category=Interop
    if lab_is_ready; then
        [[ -x $artifacts/bin/checkpoint-engine ]] || step_build
        dotnet build "tests/$lab_tests" -c "$configuration" --nologo -v quiet
    fi
    for release in "$peers"/*/bin/mooncake-peer; do
        [[ -x $release ]] || continue
        run_interop_over_rdma "$(basename "$(dirname "$(dirname "$release")")")" "$release" >>"$table"
    done
    say "our processes beside Mooncake's"
    sort "$table" | awk -F '\t' '{ printf "%-14s %-4s  %-70s %s\n", $1, $3, $2, $4 }'
    rm -f "$table"
    tell_counts
}

# run_interop_over_rdma RELEASE PEER: both directions over RDMA, in the guest, as a row of the table; what they say goes to stderr.
run_interop_over_rdma() {
    local before=$passed wrong=$((failed + ${#broken[@]})) outcome=pass remark
    if [[ -n $lab_reason ]]; then
        outcome=skip remark=$lab_reason
    else
        CHECKPOINT_ENGINE_MOONCAKE_PEER=$2 run_lab_tests --filter-class '*.MooncakeTests' >&2
        remark="$((passed - before)) tests"
        [[ $((failed + ${#broken[@]})) -eq $wrong && $passed -gt $before ]] || outcome=FAIL
    fi
    printf '%s\t%s\t%s\t%s\n' "$1" 'our holder and joiner (rdma) <-> Mooncake, Soft-RoCE in the lab' "$outcome" "$remark"
}

# Prints what failed, once more, and the sum of what run_tests counted; its status says whether all is well.
tell_counts() {
    if [[ ${#failures[@]} -ne 0 ]]; then
        say "what failed"
        printf '%s\n' "${failures[@]}"
    fi
    if [[ ${#broken[@]} -ne 0 ]]; then
        printf '\n'
        printf 'broken: %s\n' "${broken[@]}"
    fi
    failed=$((failed + ${#broken[@]}))
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    local well=$((failed == 0 && passed != 0))
    passed=0 failed=0 skipped=0 broken=() failures=()
    ((well))
}

# beside COMMAND...: runs it in the background, with counts of its own, until take_in.
beside() {
    beside_log=$(mktemp) beside_counts=$(mktemp)
    trap end_beside EXIT
    set -m # a process group of its own: whatever it runs ends with us
    count_apart "$@" >"$beside_log" 2>&1 &
    beside=$!
    set +m
}

# Runs a command with counts that begin at zero, and leaves them as take_in reads them.
count_apart() {
    passed=0 failed=0 skipped=0 broken=() failures=() took=()
    "$@"
    {
        # shellcheck disable=SC2016 # for take_in to expand
        printf 'passed=$((passed + %d)) failed=$((failed + %d)) skipped=$((skipped + %d))\n' "$passed" "$failed" "$skipped"
        ((${#broken[@]} == 0)) || printf 'broken+=(%q)\n' "${broken[@]}"
        ((${#failures[@]} == 0)) || printf 'failures+=(%q)\n' "${failures[@]}"
        printf 'took+=(%q)\n' "${took[@]/%/, beside others}"
    } >"$beside_counts"
}

# Waits for what runs in the background, prints what it wrote as one piece, and adds what it counted.
take_in() {
    local status=0
    wait "$beside" || status=$?
    beside=''
    cat "$beside_log"
    # shellcheck source=/dev/null
    source "$beside_counts"
    [[ $status -eq 0 ]] || broken+=("what ran in the background ended with status $status")
}

end_beside() {
    [[ -z $beside ]] || kill -TERM -- "-$beside" 2>/dev/null || true
    rm -f "$beside_log" "$beside_counts"
}

# timed WHAT COMMAND...: runs it and notes how long it took.
timed() {
    local since=$SECONDS
    "${@:2}"
    took+=("$((SECONDS - since))"$'\t'"$1")
}

tell_times() {
    say "how long it took, in seconds"
    printf '%s\n' "${took[@]}" | awk -F '\t' '{ printf "%6d  %s\n", $1, $2 }'
    printf '%6d  all of it\n' "$SECONDS"
}

# A test program of xunit's.
run_xunit() { run_tests "$1" --progress off --no-ansi --show-test-results failed,skipped "${@:2}"; }

# Runs one test program, by way of the words in `through`, and adds what it counts at its end: "succeeded: N" and so on (xunit), or
# "N passed, N failed, N skipped" (our own).
run_tests() {
    local name=$1 status=0 log counts
    local program=tests/$name/bin/$configuration/net10.0/$name
    local since=$SECONDS label=$name$where
    shift
    if [[ ! -x $program ]]; then
        broken+=("$name: not built")
        return
    fi
    say "$label"
    log=$(mktemp)
    "${through[@]}" "$program" "$@" 2>&1 | tee "$log" || status=$?
    took+=("$((SECONDS - since))"$'\t'"$label")
    if [[ -n $(summary total "$log") ]]; then
        counts="$(summary succeeded "$log") $(summary failed "$log") $(summary skipped "$log")"
    else
        counts=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$log" | tail -1)
    fi
    local said
    said=$(said_of_failures "$log")
    [[ -z $said ]] || failures+=("$label"$'\n'"$said")
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

# The lines of a log that tell of failed tests ("failed NAME", or "FAIL NAME" of our own), each with what stands below it.
said_of_failures() {
    awk '/^(failed|FAIL) / { lines = 30 } /^(passed|skipped|ok|Test run summary|[0-9]+ passed)/ || /^$/ && lines < 25 { lines = 0 } lines-- > 0' "$1"
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
    say "checkpoint-engine join --metas-url $http/v1/metas --transport tcp (twice into the same memory: cold, then warm)"
    "$engine" join --metas-url "$http/v1/metas" --transport tcp --repeat 2 --require-verify
    say "checkpoint-engine join --metas-url $http/v1/metas --copy (once through the memory of this host)"
    "$engine" join --metas-url "$http/v1/metas" --copy --repeat 2 --require-verify
    say "checkpoint-engine join --metas-url $http/v1/metas (attached: the holder's memory itself, not copied)"
    "$engine" join --metas-url "$http/v1/metas"
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
    if [[ ${BENCH:-} == rdma* ]]; then
        dotnet build bench/CheckpointEngine.Benchmarks -c "$configuration" --nologo -v quiet
        bench/rdma/perftest.py --ours "$PWD/bench/CheckpointEngine.Benchmarks/bin/$configuration/net10.0/CheckpointEngine.Benchmarks" ${BENCH#rdma}
    elif [[ -n ${BENCH:-} ]]; then
        [[ -x $artifacts/bin/checkpoint-engine ]] || step_build
        dotnet run -c "$configuration" --project bench/CheckpointEngine.ProcessBenchmarks -- $BENCH
    else
        dotnet run -c "$configuration" --project bench/CheckpointEngine.Benchmarks -- ${BENCH_ARGS:---check-allocations}
    fi
}

step_pack() {
    [[ -n $built ]] || step_build
    [[ -f README.md ]] || fail "README.md is missing; it goes into the packages"
    rm -rf "$artifacts/packages"
    # The same sources give the same bytes, of the tarball and by NuGet too: all is as old as the commit, or outside git as the file with the version.
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Directory.Build.props)}
    export SOURCE_DATE_EPOCH
    local project
    for project in CheckpointEngine.Core CheckpointEngine.Http CheckpointEngine.Cli CheckpointEngine.Native; do
        say "$project"
        dotnet pack "$project" -c "$configuration" -o "$artifacts/packages" --nologo -v quiet
    done
    say "the tarball"
    pack_tarball
    ls -l "$artifacts/packages"
}

# What 'build' made, but for symbols, under one directory of its own; names sorted, nobody's user, one time.
pack_tarball() {
    local name=checkpoint-engine-$version-$runtime
    local root=$artifacts/publish/$name
    rm -rf "$root"
    mkdir -p "$root/share/doc/checkpoint-engine"
    cp -r deploy "$root/share/checkpoint-engine"
    cp -a "$artifacts"/{bin,lib,include,python} "$root/"
    rm "$root"/lib/*.dbg
    cp -r README.md SECURITY.md LICENSE THIRD-PARTY-NOTICES.md docs examples "$root/share/doc/checkpoint-engine/"
    local notices
    notices=$(dotnet nuget locals global-packages --list | sed 's/^[^/]*//')/runtime.$runtime.microsoft.dotnet.ilcompiler
    cp "$(find "$notices" -name THIRD-PARTY-NOTICES.TXT | sort -V | tail -1)" "$root/share/doc/checkpoint-engine/dotnet-THIRD-PARTY-NOTICES.txt"
    tar --create --directory "$artifacts/publish" --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime="@$SOURCE_DATE_EPOCH" "$name" | gzip -9 -n >"$artifacts/packages/$name.tar.gz"
}

if [[ $# -eq 0 ]]; then
    usage
    exit 0
fi
for step in "$@"; do
    case $step in
        build | cross | pack) timed "$step" "step_$step" ;;
        test | demo | bench | lab | interop) "step_$step" ;;
        -h | --help | all) usage ;;
        *)
            usage >&2
            fail "there is no step '$step'"
            ;;
    esac
done
