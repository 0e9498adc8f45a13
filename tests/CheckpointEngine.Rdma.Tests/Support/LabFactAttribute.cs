using System.Runtime.CompilerServices;

namespace CheckpointEngine.Rdma.Tests.Support;

/// <summary>A test that needs RDMA devices: skipped where there are none.</summary>
[AttributeUsage(AttributeTargets.Method)]
internal sealed class LabFactAttribute : FactAttribute
{
    public LabFactAttribute([CallerFilePath] string? file = null, [CallerLineNumber] int line = -1) : base(file, line)
    {
        Skip = RdmaLab.NoDevices;
        SkipType = typeof(RdmaLab);
        SkipUnless = nameof(RdmaLab.HasDevices);
    }
}

/// <summary>As <see cref="LabFactAttribute"/>, for a test with cases.</summary>
[AttributeUsage(AttributeTargets.Method)]
internal sealed class LabTheoryAttribute : TheoryAttribute
{
    public LabTheoryAttribute([CallerFilePath] string? file = null, [CallerLineNumber] int line = -1) : base(file, line)
    {
        Skip = RdmaLab.NoDevices;
        SkipType = typeof(RdmaLab);
        SkipUnless = nameof(RdmaLab.HasDevices);
    }
}
