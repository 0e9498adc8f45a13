using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Running;
using CheckpointEngine.Benchmarks;

// BenchmarkDotNet's own arguments (--list flat, --filter '*Metas*', …), and:
//   --check-allocations [--filter …]   a short run of each; ends with 1 when one allocates more than allocations.json grants it
//   mooncake-read …                    a lane through Mooncake's library, likewise
//   lane-serve …, lane-read …          the two ends of a TCP lane, for the comparison that CheckpointEngine.ProcessBenchmarks makes
if ((LaneProcess.TryRun(args) ?? RdmaLaneProcess.TryRun(args) ?? MooncakeLaneProcess.TryRun(args)) is int status)
{
    return status;
}
bool check = args.Contains("--check-allocations");
string[] rest = [.. args.Where(argument => argument != "--check-allocations")];
IConfig config = BenchmarkConfig.Create(isShort: check);
if (check && !rest.Contains("--filter"))
{
    rest = [.. rest, "--filter", "*"];
}
var summaries = BenchmarkSwitcher.FromAssembly(typeof(BenchmarkConfig).Assembly).Run(rest, config);
return check && !AllocationLimits.Check(summaries) ? 1 : 0;
