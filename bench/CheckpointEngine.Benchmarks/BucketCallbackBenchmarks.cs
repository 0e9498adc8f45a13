using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using BenchmarkDotNet.Attributes;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Native;

namespace CheckpointEngine.Benchmarks;

/// <summary>What a bucket costs more when its consumer is a C function: the crossing, and the description of its tensors.</summary>
public unsafe class BucketCallbackBenchmarks
{
    private static readonly nint Address = unchecked((nint)0x7f00_0000_0000);

    private BucketCallback? _callback;
    private JoinBucket? _bucket;
    private BucketHandler? _handler;
    private NativeJoin? _join;

    /// <summary>Tensors in the bucket: one large, those of a layer, and as many small ones as fit.</summary>
    [Params(1, 12, 256)]
    public int Tensors { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        using var builder = new TensorTableBuilder();
        for (int tensor = 0; tensor < Tensors; tensor++)
        {
            builder.Add(Encoding.UTF8.GetBytes($"model.layers.{tensor}.mlp.down_proj.weight"), TensorDtype.BF16, [64, 64], 8192, tensor * 8192L);
        }
        _bucket = new JoinBucket(builder.Build(), 1, Tensors);
        _bucket.Begin(0, Address, Tensors * 8192L);
        for (int tensor = 0; tensor < Tensors; tensor++)
        {
            _bucket.Add(tensor, Address + (tensor * 8192));
        }
        var server = new NativeServer(new ParameterServer(new ParameterServerOptions()));
        _callback = new BucketCallback(&Ignore, null);
        _join = new NativeJoin(server, new MetasSource(CheckpointMetas.Empty), new JoinOptions(), null);
        _join.WaitForEnd();
        _callback.Join = _join;
        _handler = static _ => { };
    }

    /// <summary>The same bucket consumed by an empty C# handler.</summary>
    [Benchmark(Baseline = true)]
    public void Managed() => _handler!(_bucket!);

    [Benchmark]
    public void C() => _callback!.OnBucket(_bucket!);

    [GlobalCleanup]
    public void Cleanup() => _callback?.Free();

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static int Ignore(void* user, CeBucket* bucket) => 0;
}
