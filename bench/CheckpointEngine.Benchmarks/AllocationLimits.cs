using System.Text.Json;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;

namespace CheckpointEngine.Benchmarks;

/// <summary>Holds what benchmarks allocate against <c>bench/allocations.json</c>: the bytes that each may allocate in one operation.</summary>
internal static class AllocationLimits
{
    /// <summary>Prints every figure beside its limit.</summary>
    /// <returns>False when one is above it, has none, or did not run.</returns>
    internal static bool Check(IEnumerable<Summary> summaries)
    {
        using FileStream file = File.OpenRead(Path.Combine(AppContext.BaseDirectory, "allocations.json"));
        using JsonDocument document = JsonDocument.Parse(file, new JsonDocumentOptions { CommentHandling = JsonCommentHandling.Skip });
        JsonElement limits = document.RootElement;
        bool held = true;
        int checkedCount = 0;
        Console.WriteLine($"\n{"benchmark",-60} {"allocated",14} {"limit",14}");
        foreach (Summary summary in summaries)
        {
            held &= !summary.HasCriticalValidationErrors;
            foreach (BenchmarkReport report in summary.Reports)
            {
                BenchmarkCase benchmark = report.BenchmarkCase;
                string name = benchmark.Descriptor.Type.Name + "." + benchmark.Descriptor.WorkloadMethod.Name
                    + (benchmark.HasParameters ? benchmark.Parameters.DisplayInfo : "");
                long? allocated = report.Success ? report.GcStats.GetBytesAllocatedPerOperation(benchmark) : null;
                long? limit = limits.TryGetProperty(name, out JsonElement value) ? value.GetInt64() : null;
                bool fine = allocated <= limit;
                held &= fine;
                checkedCount++;
                Console.WriteLine($"{name,-60} {allocated?.ToString("N0", null) ?? "did not run",14} {limit?.ToString("N0", null) ?? "none given",14}{(fine ? "" : "  MISSED")}");
            }
        }
        Console.WriteLine(held && checkedCount != 0 ? "all within bench/allocations.json" : "bench/allocations.json is not held");
        return held && checkedCount != 0;
    }
}
