<#
.SYNOPSIS
Builds, tests and packs CheckpointEngine. The same steps as build.sh, which is the one that CI runs.

.DESCRIPTION
  build   compile ahead of time: artifacts/bin, artifacts/lib, artifacts/include, artifacts/python
  cross   the library for linux-arm64: Linux only, use build.sh
  test    build the solution and run every test; the last line is "N passed, N failed, N skipped". Those that need RDMA devices are skipped where
          there are none: ./build.sh lab runs them in a virtual machine that has some
  demo    Linux only: use build.sh
  bench   the benchmarks; arguments after the step go to them; with BENCH=NAME in the environment a whole-process benchmark (compare, …; Linux only)
  pack    build, then NuGet packages in artifacts/packages; the tarball is build.sh's
  lab     Linux only: use build.sh
  interop our processes beside real Mooncake engines, over TCP and through their library; CHECKPOINT_ENGINE_MOONCAKE_PEERS names the folder with
          the releases, see docs/interop.md. Linux only; over RDMA too: use build.sh

Needs: PowerShell 7, the .NET 10 SDK; for 'build' also the C++ tools of Visual Studio (Windows) or clang and zlib's headers (Linux).

.EXAMPLE
./build.ps1 test
#>
param(
    [Parameter(Position = 0)] [ValidateSet('build', 'cross', 'test', 'demo', 'bench', 'pack', 'lab', 'interop', 'help')] [string] $Step = 'help',
    [Parameter(ValueFromRemainingArguments)] [string[]] $Rest
)
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $true
Set-Location $PSScriptRoot

$artifacts = Join-Path $PSScriptRoot 'artifacts'
$runtime = $IsWindows ? 'win-x64' : 'linux-x64'
$soname = 'libcheckpoint_engine.so.0'
$version = ([xml](Get-Content -Raw Directory.Build.props)).SelectSingleNode('//Version').InnerText
$configuration = 'Release'   # what ships, and what the tests of allocation and speed measure means nothing in Debug

function Publish($project, $output) {
    dotnet publish $project -c $configuration -r $runtime -o (Join-Path $artifacts "publish/$output") --nologo -v quiet
}

function Step-Build {
    Publish CheckpointEngine.Cli cli
    Publish CheckpointEngine.Native native
    foreach ($name in 'lib', 'include', 'python') { Remove-Item -Recurse -Force -ErrorAction Ignore (Join-Path $artifacts $name) }
    foreach ($name in 'bin', 'lib', 'include', 'python') { New-Item -ItemType Directory -Force (Join-Path $artifacts $name) | Out-Null }
    Copy-Item (Join-Path $artifacts 'publish/cli/checkpoint-engine*') (Join-Path $artifacts 'bin') -Exclude *.dbg, *.pdb
    Copy-Item 'interop-headers/*' (Join-Path $artifacts 'include') -Include *.h, *.hpp
    Copy-Item 'interop-headers/*' (Join-Path $artifacts 'python') -Include *.py
    $lib = Join-Path $artifacts 'lib'
    Copy-Item (Join-Path $artifacts 'publish/native/libcheckpoint_engine*') $lib
    if ($IsLinux) {
        # As a distribution has it: the file under its version, links for the loader (the soname) and the linker.
        Move-Item "$lib/libcheckpoint_engine.so" "$lib/libcheckpoint_engine.so.$version"
        New-Item -ItemType SymbolicLink -Path "$lib/$soname" -Target "libcheckpoint_engine.so.$version" | Out-Null
        New-Item -ItemType SymbolicLink -Path "$lib/libcheckpoint_engine.so" -Target $soname | Out-Null
        foreach ($template in Get-ChildItem interop-headers/packaging -Filter *.in) {
            $folder = Join-Path $lib ($template.BaseName -like '*.cmake' ? 'cmake/CheckpointEngine' : 'pkgconfig')
            New-Item -ItemType Directory -Force $folder | Out-Null
            (Get-Content -Raw $template).Replace('@VERSION@', $version).Replace('@SONAME@', $soname) | Set-Content -NoNewline (Join-Path $folder $template.BaseName)
        }
    }
}

function Step-Pack {
    if (-not $IsLinux) { throw 'the packages hold the Linux library: pack on Linux' }
    Step-Build
    Remove-Item -Recurse -Force -ErrorAction Ignore (Join-Path $artifacts 'packages')
    'CheckpointEngine.Core', 'CheckpointEngine.Http', 'CheckpointEngine.Cli', 'CheckpointEngine.Native' |
        ForEach-Object { dotnet pack $_ -c $configuration -o (Join-Path $artifacts 'packages') --nologo -v quiet }
    Write-Host 'the tarball: ./build.sh pack'
}

function Step-Test {
    dotnet build CheckpointEngine.slnx -c $configuration --nologo -v quiet
    $sum = @{ total = 0; succeeded = 0; failed = 0; skipped = 0 }
    $took = [ordered] @{}
    foreach ($project in Get-ChildItem tests -Recurse -Filter *.csproj | Where-Object BaseName -Match '(\.Tests|AllocationTests)$') {
        $program = Join-Path $project.DirectoryName "bin/$configuration/net10.0/$($project.BaseName)$($IsWindows ? '.exe' : '')"
        $PSNativeCommandUseErrorActionPreference = $false
        $watch = [Diagnostics.Stopwatch]::StartNew()
        & $program --progress off --no-ansi --show-test-results 'failed,skipped' | Tee-Object -Variable output
        $status = $LASTEXITCODE
        $took[$project.BaseName] = $watch.Elapsed.TotalSeconds
        $PSNativeCommandUseErrorActionPreference = $true
        $counted = $false
        foreach ($line in $output) {
            if ($line -match '^\s*(total|succeeded|failed|skipped): (\d+)') { $sum[$Matches[1]] += [int] $Matches[2]; $counted = $true }
        }
        if (-not $counted) { Write-Host "broken: $($project.BaseName) ended with status $status and no summary"; $sum.failed++ }
    }
    Write-Host "how long it took, in seconds"
    foreach ($name in $took.Keys) { Write-Host ('{0,6:0}  {1}' -f $took[$name], $name) }
    Write-Host "$($sum.succeeded) passed, $($sum.failed) failed, $($sum.skipped) skipped"
    if ($sum.failed -ne 0 -or $sum.total -eq 0) { exit 1 }
}

function Step-Bench {
    if (-not $env:BENCH) {
        dotnet run -c $configuration --project bench/CheckpointEngine.Benchmarks -- @Rest
        return
    }
    if (-not $IsLinux) { throw 'the whole-process benchmarks run on Linux' }
    if (-not (Test-Path (Join-Path $artifacts 'bin/checkpoint-engine'))) { Step-Build }
    $words = -split $env:BENCH
    dotnet run -c $configuration --project bench/CheckpointEngine.ProcessBenchmarks -- @words @Rest
}

function Step-Interop {
    if (-not $IsLinux) { throw 'Mooncake runs on Linux, and so do the tests beside it' }
    if (-not $env:CHECKPOINT_ENGINE_MOONCAKE_PEERS) { throw 'CHECKPOINT_ENGINE_MOONCAKE_PEERS names no folder with releases of Mooncake (docs/interop.md)' }
    dotnet build tests/CheckpointEngine.Cli.Tests -c $configuration --nologo -v quiet
    $env:CHECKPOINT_ENGINE_INTEROP_TABLE = New-TemporaryFile
    $PSNativeCommandUseErrorActionPreference = $false
    & "tests/CheckpointEngine.Cli.Tests/bin/$configuration/net10.0/CheckpointEngine.Cli.Tests" --filter-trait Category=Interop --progress off --no-ansi --show-test-results 'failed,skipped'
    $status = $LASTEXITCODE
    Import-Csv -Delimiter "`t" -Header Release, Pair, Outcome, Remark $env:CHECKPOINT_ENGINE_INTEROP_TABLE | Sort-Object Release, Pair | Format-Table Release, Outcome, Pair, Remark
    Remove-Item $env:CHECKPOINT_ENGINE_INTEROP_TABLE
    exit $status
}

switch ($Step) {
    'build' { Step-Build }
    'test' { Step-Test }
    'cross' { throw 'the cross compiler is a Linux one: ./build.sh cross' }
    'demo' { throw 'the demo runs on Linux: ./build.sh demo' }
    'bench' { Step-Bench }
    'interop' { Step-Interop }
    'pack' { Step-Pack }
    'lab' { throw 'the RDMA lab is a Linux one: ./build.sh lab' }
    default { Get-Help $PSCommandPath -Detailed }
}
