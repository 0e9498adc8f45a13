using System.Diagnostics;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

/// <summary>This process's context on one GPU, the one that every library in it shares.</summary>
/// <remarks>Any thread; dispose it once nobody uses it.</remarks>
internal sealed unsafe class CudaContext : IDisposable
{
    private readonly int _device;
    private void* _context;

    /// <exception cref="CheckpointEngineException">What the driver says.</exception>
    internal CudaContext(int device, string name)
    {
        _device = device;
        Name = name;
        void* context;
        Check(LibCuda.cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain", name);
        _context = context;
    }

    /// <summary>How messages call the device.</summary>
    internal string Name { get; }

    internal int Device => _device;

    internal void* Pointer => _context;

    /// <summary>Makes it the calling thread's until the scope ends, which leaves the thread as it was.</summary>
    internal Scope Enter()
    {
        Check(LibCuda.cuCtxPushCurrent(_context), "cuCtxPushCurrent", Name);
        return new Scope(this);
    }

    /// <summary>Whether copies from another device go directly; switches that on.</summary>
    internal bool CanReach(CudaContext other)
    {
        int can;
        if (LibCuda.cuDeviceCanAccessPeer(&can, _device, other._device) != LibCuda.CUDA_SUCCESS || can == 0)
        {
            return false;
        }
        using Scope scope = Enter();
        return LibCuda.cuCtxEnablePeerAccess(other._context, 0) is LibCuda.CUDA_SUCCESS or LibCuda.CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
    }

    /// <summary>Throws what a call gave, unless it succeeded.</summary>
    internal static void Check(int result, string call, string subject)
    {
        if (result != LibCuda.CUDA_SUCCESS)
        {
            Throw(result, call, subject);
        }
    }

    public void Dispose()
    {
        if (_context != null)
        {
            _context = null;
            LibCuda.cuDevicePrimaryCtxRelease(_device);
        }
    }

    private static void Throw(int result, string call, string subject)
    {
        CheckpointError kind = result switch
        {
            LibCuda.CUDA_ERROR_OUT_OF_MEMORY => CheckpointError.OutOfMemory,
            LibCuda.CUDA_ERROR_NO_DEVICE or LibCuda.CUDA_ERROR_NOT_SUPPORTED => CheckpointError.NotSupported,
            _ => CheckpointError.Native,
        };
        throw new CheckpointEngineException(kind, $"{call} on {subject}: {LibCuda.Describe(result)}", result);
    }

    /// <summary>A context that is on top of the thread's.</summary>
    internal readonly ref struct Scope(CudaContext entered)
    {
        public void Dispose()
        {
            void* popped;
            int result = LibCuda.cuCtxPopCurrent(&popped);
            Debug.Assert(result != LibCuda.CUDA_SUCCESS || popped == entered._context, "scopes end in the order in which they nest");
        }
    }
}
