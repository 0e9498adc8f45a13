using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Native;

namespace CheckpointEngine.AllocationTests;

/// <summary>What a bucket costs from its arrival to the return of the C function that consumes it, and what the C functions cost that are called often.</summary>
internal static unsafe class BucketCallbackMeasurement
{
    private const int Buckets = 2000;
    private const int TensorBytes = 16 << 10;
    private const int WarmUp = 16;

    private static long s_before;
    private static long s_allocated;

    internal static void Run(Action<string, long, int, double> report)
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous((long)Buckets * TensorBytes);
        nint server = 0;
        var serverOptions = new CeServerOptions { StructSize = (nuint)sizeof(CeServerOptions) };
        Check(((delegate* unmanaged[Cdecl]<CeServerOptions*, nint*, int>)&Exports.ServerCreate)(&serverOptions, &server));
        var tensors = new CeTensor[Buckets];
        long shape = TensorBytes;
        fixed (byte* name = "live\0"u8)
        fixed (CeTensor* first = tensors)
        {
            for (int i = 0; i < Buckets; i++)
            {
                byte* tensorName = (byte*)Marshal.StringToCoTaskMemUTF8($"t{i:d5}");
                first[i] = new CeTensor { Name = tensorName, Shape = &shape, Rank = 1, Dtype = (uint)TensorDtype.U8, Data = (void*)(memory.Address + (nint)i * TensorBytes) };
            }
            Check(((delegate* unmanaged[Cdecl]<nint, byte*, CeTensor*, nuint, int>)&Exports.ServerRegisterTensors)(server, name, first, Buckets));
            for (int i = 0; i < Buckets; i++)
            {
                Marshal.FreeCoTaskMem((nint)first[i].Name);
            }

            nint metas = 0;
            Check(((delegate* unmanaged[Cdecl]<nint, byte*, nint*, int>)&Exports.ServerMetas)(server, name, &metas));
            var options = new CeJoinOptions { StructSize = (nuint)sizeof(CeJoinOptions), Metas = metas, Destination = 2, BucketBytes = TensorBytes, OnBucket = &OnBucket };
            nint join = 0;
            Check(((delegate* unmanaged[Cdecl]<nint, CeJoinOptions*, nint*, int>)&Exports.JoinStart)(server, &options, &join));
            Check(((delegate* unmanaged[Cdecl]<nint, ulong, int>)&Exports.JoinWait)(join, ulong.MaxValue));
            report("bucket through a C callback", s_allocated, Buckets - WarmUp - 1, 0);

            nint checkpoint = 0;
            Check(((delegate* unmanaged[Cdecl]<nint, byte*, nint*, int>)&Exports.ServerCheckpoint)(server, name, &checkpoint));
            fixed (byte* tensorName = "t01000\0"u8)
            {
                var find = (delegate* unmanaged[Cdecl]<nint, byte*, CeTensor*, int>)&Exports.CheckpointFind;
                var get = (delegate* unmanaged[Cdecl]<nint, ulong, CeTensor*, int>)&Exports.CheckpointTensor;
                var poll = (delegate* unmanaged[Cdecl]<nint, CeJoinProgress*, int>)&Exports.JoinPoll;
                var progress = new CeJoinProgress { StructSize = (nuint)sizeof(CeJoinProgress) };
                CeTensor tensor;
                Check(find(checkpoint, tensorName, &tensor) | get(checkpoint, 7, &tensor) | poll(join, &progress));
                long before = GC.GetAllocatedBytesForCurrentThread();
                for (int i = 0; i < 10_000; i++)
                {
                    Check(find(checkpoint, tensorName, &tensor) | get(checkpoint, 7, &tensor) | poll(join, &progress));
                }
                report("ce_checkpoint_find, ce_checkpoint_tensor, ce_join_poll", GC.GetAllocatedBytesForCurrentThread() - before, 30_000, 0);
            }
            var destroy = (delegate* unmanaged[Cdecl]<nint, int>)&Exports.CheckpointDestroy;
            Check(destroy(checkpoint));
            Check(((delegate* unmanaged[Cdecl]<nint, int>)&Exports.JoinDestroy)(join));
            Check(((delegate* unmanaged[Cdecl]<nint, int>)&Exports.MetasDestroy)(metas));
            Check(((delegate* unmanaged[Cdecl]<nint, int>)&Exports.ServerDestroy)(server));
        }
    }

    // All buckets come on one thread: between two calls it waits, compares digests, and describes the next.
    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static int OnBucket(void* user, CeBucket* bucket)
    {
        if (bucket->Index == WarmUp)
        {
            s_before = GC.GetAllocatedBytesForCurrentThread();
        }
        else if (bucket->Index == Buckets - 1)
        {
            s_allocated = GC.GetAllocatedBytesForCurrentThread() - s_before;
        }
        return 0;
    }

    private static void Check(int status)
    {
        if (status != 0)
        {
            throw new InvalidOperationException($"status {status}: {Call.LastError}");
        }
    }
}
