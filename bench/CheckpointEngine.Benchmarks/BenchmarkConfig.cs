using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Exporters;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Order;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using BenchmarkDotNet.Validators;
using Perfolizer.Horology;

namespace CheckpointEngine.Benchmarks;

/// <summary>What all benchmarks share.</summary>
/// <remarks>
/// Inside this process, whose collector the csproj sets (workstation, not concurrent): no project is generated and built for a run, and what the
/// other end of a benchmark allocates on its own threads is counted too. An assembly that was not optimized is refused.
/// </remarks>
internal static class BenchmarkConfig
{
    internal static IConfig Create(bool isShort)
    {
        // A check of allocations needs few iterations; 50 ms each, for what a caller allocates once must vanish in the count of calls.
        Job job = (isShort ? Job.Dry.WithWarmupCount(3).WithIterationCount(3).WithInvocationCount(16).WithUnrollFactor(1) : Job.ShortRun.WithIterationTime(TimeInterval.FromMilliseconds(200)))
            .WithStrategy(BenchmarkDotNet.Engines.RunStrategy.Throughput)
            .WithToolchain(InProcessEmitToolchain.Instance)
            .WithGcServer(false)
            .WithGcConcurrent(false);
        return ManualConfig.CreateEmpty()
            .AddJob(job)
            .AddLogger(ConsoleLogger.Default)
            .AddColumnProvider(DefaultColumnProviders.Instance)
            .AddDiagnoser(MemoryDiagnoser.Default)
            .AddValidator(JitOptimizationsValidator.FailOnError)
            .AddExporter(MarkdownExporter.GitHub)
            .WithOrderer(new DefaultOrderer(SummaryOrderPolicy.Declared))
            .WithSummaryStyle(SummaryStyle.Default.WithMaxParameterColumnWidth(40));
    }
}
