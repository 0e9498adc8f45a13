using System.Runtime.InteropServices;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Native;

// The structs of checkpoint_engine.h, member for member.

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CeTensor
{
    internal byte* Name;
    internal long* Shape;
    internal void* Data;
    internal ulong SizeBytes;
    internal uint Rank;
    internal uint Dtype;

    /// <summary>Describes a tensor of a table; what it points at lives as long as the table.</summary>
    internal static void Fill(CeTensor* tensor, TensorTable tensors, int index, nint address)
    {
        int rank = tensors.GetShape(index).Length;
        long bytes = tensors.GetByteLength(index);
        tensor->Name = tensors.GetNameAddress(index);
        tensor->Shape = rank == 0 ? null : tensors.GetShapeAddress(index);
        tensor->Data = bytes == 0 ? null : (void*)address;
        tensor->SizeBytes = (ulong)bytes;
        tensor->Rank = (uint)rank;
        tensor->Dtype = (uint)tensors.GetDtype(index);
    }
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CeBucket
{
    internal void* Data;
    internal ulong SizeBytes;
    internal CeTensor* Tensors;
    internal ulong TensorCount;
    internal ulong Index;
    internal ulong Count;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CeFetchOptions
{
    internal nuint StructSize;
    internal byte* Token;
    internal byte* CaFile;
    internal byte* CertFile;
    internal byte* KeyFile;
    internal ulong TimeoutMs;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CeServerOptions
{
    internal nuint StructSize;
    internal byte* Address;
    internal byte* Token;
    internal byte* PlainPeers;
    internal ulong DrainTimeoutMs;
    internal uint Flags;
    internal int Rank;
    internal uint Port;
    internal uint Hold;
    internal uint Pin;
    internal uint Digest;

    // Since 0.3.
    internal byte* LocalSocket;
    internal byte* LocalPeers;
    internal uint Transport;
    internal uint AttachFiles;
    internal byte* RdmaDevices;
    internal ulong GraceTimeMs;
    internal byte* TlsCertFile;
    internal byte* TlsKeyFile;
    internal byte* TlsClientCaFile;
    internal byte* CaFile;
    internal byte* CertFile;
    internal byte* KeyFile;
    internal byte* AuditLog;
    internal uint RequireTls;
    internal uint MaxPeers;
    internal uint MaxPeersOfAddress;
    internal uint MaxData;
    internal uint MaxDataOfAddress;
    internal uint MaxHandshakes;
    internal uint MaxHandshakesOfAddress;
    internal uint MaxRequests;
    internal uint MaxLeases;
    internal uint MaxInFlightKib;
    internal uint EncryptData;
    internal uint RequireEncryption;
}

[StructLayout(LayoutKind.Sequential)]
internal struct CeRegisterOptions
{
    internal nuint StructSize;
    internal uint Replace;
    internal uint SharedPool;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CeJoinOptions
{
    internal nuint StructSize;
    internal byte* CheckpointName;
    internal byte* MetasUrl;
    internal nint Metas;
    internal CeFetchOptions* Fetch;
    internal byte** Include;
    internal byte** Exclude;
    internal nuint IncludeCount;
    internal nuint ExcludeCount;
    internal CeTensor* Tensors;
    internal nuint TensorCount;
    internal byte* Directory;
    internal delegate* unmanaged[Cdecl]<void*, CeBucket*, int> OnBucket;
    internal void* User;
    internal ulong BucketBytes;
    internal ulong TimeoutMs;
    internal ulong StallTimeoutMs;
    internal uint Destination;
    internal uint Verify;
    internal uint Transport;
    internal uint Lanes;
    internal uint WeightsOnly;
    internal uint Reserved;

    // Since 0.3.
    internal uint Copy;
    internal uint AttachFiles;
    internal byte** ReplicaUrls;
    internal nuint ReplicaCount;
    internal byte* EarlierCheckpoint;
    internal ulong RetryTimeoutMs;
    internal uint Replace;
    internal uint Relay;
}

[StructLayout(LayoutKind.Sequential)]
internal struct CeJoinProgress
{
    internal nuint StructSize;
    internal ulong BytesDone;
    internal ulong BytesTotal;
    internal uint Lanes;
    internal uint Phase;
    internal uint State;
    internal uint BucketsDone;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CeJoinReport
{
    internal nuint StructSize;
    internal ulong Bytes;
    internal ulong Tensors;
    internal double Seconds;
    internal double MetasSeconds;
    internal double PlanSeconds;
    internal double AllocateSeconds;
    internal double TransferSeconds;
    internal double VerifySeconds;
    internal double WriteSeconds;
    internal byte* UnverifiedReason;
    internal uint Verified;
    internal uint Buckets;

    // Since 0.3.
    internal ulong AttachedBytes;
    internal ulong ReusedBytes;
    internal ulong RetriedBytes;
    internal ulong RelayedBytes;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CeUpdateOptions
{
    internal nuint StructSize;
    internal byte* Endpoint;
    internal byte* UnixSocket;
    internal byte* ApiKey;
    internal byte* WeightVersion;
    internal byte* FilesDirectory;
    internal ulong BucketBytes;
    internal ulong HealthTimeoutMs;
    internal ulong StepTimeoutMs;
    internal ulong UpdateTimeoutMs;
    internal uint Engine;
    internal uint ParallelSize;
    internal uint WorkerProtocol;
    internal uint Devices;
    internal uint KeepCache;
    internal uint KeepFiles;
}

[StructLayout(LayoutKind.Sequential)]
internal struct CeUpdateReport
{
    internal nuint StructSize;
    internal ulong Bytes;
    internal ulong Tensors;
    internal ulong BucketBytes;
    internal ulong Buckets;
    internal double Seconds;
    internal double HealthSeconds;
    internal double WriteSeconds;
    internal double CopySeconds;
    internal double LoadSeconds;
    internal double FinishSeconds;
}
