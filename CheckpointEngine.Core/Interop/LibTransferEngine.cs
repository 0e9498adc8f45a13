using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

/// <summary>Mooncake's transfer engine by its C API: loaded when the user asks for it, and never needed.</summary>
/// <remarks>
/// <para>Every call but <see cref="TryLoad"/> needs that to have succeeded before. A process has one such library; it stays loaded.</para>
/// <para>Registration and <see cref="openSegment"/> may be called from any thread, and different batches be used by different threads; one batch by one
/// thread at a time. No C++ exception is caught at this boundary: it ends the process.</para>
/// <para>Codes of the engine are negative, those of batches positive. Source: transfer_engine_c.h of v0.3.6 to v0.3.13; docs/mooncake-wire.md, section 6.</para>
/// </remarks>
internal static unsafe class LibTransferEngine
{
    internal const int OPCODE_READ = 0;

    internal const int STATUS_WAITING = 0;
    internal const int STATUS_PENDING = 1;
    internal const int STATUS_INVALID = 2;
    internal const int STATUS_CANCELED = 3;
    internal const int STATUS_COMPLETED = 4;
    internal const int STATUS_TIMEOUT = 5;
    internal const int STATUS_FAILED = 6;

    private static readonly Lock s_loading = new();
    private static volatile string? s_loaded;

    // Needed; in every release since v0.3.0, which brought the mode without a metadata server.
    private static delegate* unmanaged<byte*, byte*, byte*, ulong, int, void*> s_createTransferEngine;
    private static delegate* unmanaged<void*, void> s_destroyTransferEngine;
    private static delegate* unmanaged<void*, byte*, nuint, int> s_getLocalIpAndPort;
    private static delegate* unmanaged<void*, byte*, int> s_openSegment;
    private static delegate* unmanaged<void*, BufferEntry*, nuint, byte*, int> s_registerLocalMemoryBatch;
    private static delegate* unmanaged<void*, void**, nuint, int> s_unregisterLocalMemoryBatch;
    private static delegate* unmanaged<void*, nuint, ulong> s_allocateBatchID;
    private static delegate* unmanaged<void*, ulong, TransferRequest*, nuint, int> s_submitTransfer;
    private static delegate* unmanaged<void*, ulong, nuint, TransferStatus*, int> s_getTransferStatus;
    private static delegate* unmanaged<void*, ulong, int> s_freeBatchID;

    // Null where the library is older.
    private static delegate* unmanaged<void*, byte*, int> s_warmupEfaSegment;

    /// <summary>What its symbols tell of its release.</summary>
    internal static string Release { get; private set; } = "";

    /// <summary>Whether any memory of a process that uses it can be read and written by whoever reaches its data port: it is older than v0.3.12.</summary>
    internal static bool ServesAnyMemory { get; private set; }

    /// <summary>Loads the library, once. Any thread.</summary>
    /// <param name="library">A path, or a name that the loader looks for.</param>
    /// <param name="reason">Why it is not to be had, and what to do; null when it is there.</param>
    internal static bool TryLoad(string library, [NotNullWhen(false)] out string? reason)
    {
        lock (s_loading)
        {
            reason = s_loaded is null ? Load(library)
                : s_loaded == library ? null : $"this process has loaded {s_loaded} already, and can have one such library only, not {library} too";
            s_loaded ??= reason is null ? library : null;
            return reason is null;
        }
    }

    private static string? Load(string name)
    {
        // Its log would fill stderr with what is no error; who has said what is to be logged keeps that.
        _ = Libc.setenv("MC_LOG_LEVEL", "ERROR", 0);
        nint library;
        try
        {
            library = NativeLibrary.Load(name);
        }
        catch (Exception failure) when (failure is DllNotFoundException or BadImageFormatException)
        {
            int own = failure.Message.IndexOf('\n', StringComparison.Ordinal);      // behind the runtime's advice stands what dlopen(3) said
            return $"{name} cannot be loaded: {failure.Message[(own + 1)..].Trim().ReplaceLineEndings("; ")}";
        }
        string? missing = null;
        s_createTransferEngine = (delegate* unmanaged<byte*, byte*, byte*, ulong, int, void*>)Need("createTransferEngine");
        s_destroyTransferEngine = (delegate* unmanaged<void*, void>)Need("destroyTransferEngine");
        s_openSegment = (delegate* unmanaged<void*, byte*, int>)Need("openSegment");
        s_registerLocalMemoryBatch = (delegate* unmanaged<void*, BufferEntry*, nuint, byte*, int>)Need("registerLocalMemoryBatch");
        s_unregisterLocalMemoryBatch = (delegate* unmanaged<void*, void**, nuint, int>)Need("unregisterLocalMemoryBatch");
        s_allocateBatchID = (delegate* unmanaged<void*, nuint, ulong>)Need("allocateBatchID");
        s_submitTransfer = (delegate* unmanaged<void*, ulong, TransferRequest*, nuint, int>)Need("submitTransfer");
        s_getTransferStatus = (delegate* unmanaged<void*, ulong, nuint, TransferStatus*, int>)Need("getTransferStatus");
        s_freeBatchID = (delegate* unmanaged<void*, ulong, int>)Need("freeBatchID");
        s_getLocalIpAndPort = (delegate* unmanaged<void*, byte*, nuint, int>)Need("getLocalIpAndPort");
        s_warmupEfaSegment = (delegate* unmanaged<void*, byte*, int>)Find("warmupEfaSegment");
        ServesAnyMemory = Find("getNicLoadStats") == null;
        Release = !ServesAnyMemory ? "v0.3.12 or later"
            : s_warmupEfaSegment != null ? "v0.3.10.post2 to v0.3.11.post1"
            : Find("submitTransferWithNotify") != null ? "v0.3.4.post1 to v0.3.10.post1" : "v0.3.0 to v0.3.4";
        return missing is null ? null : $"{name} has no {missing}, which Mooncake's C API has in every release since v0.3.0: it is older, or built without the C API "
            + "(engine.so of the Python wheel is; build Mooncake with -DBUILD_SHARED_LIBS=ON)";

        void* Find(string symbol) => NativeLibrary.TryGetExport(library, symbol, out nint address) ? (void*)address : null;

        void* Need(string symbol)
        {
            void* address = Find(symbol);
            missing ??= address == null ? symbol : null;
            return address;
        }
    }

    /// <summary>Makes an engine, which listens at once; null when it cannot. Without a metadata server the last but one two arguments mean nothing.</summary>
    internal static void* createTransferEngine(byte* metadata, byte* localServerName, byte* host, ulong port, int autoDiscover)
        => s_createTransferEngine(metadata, localServerName, host, port, autoDiscover);

    /// <summary>Ends an engine; it waits up to a second for its listener. Nothing of it may be in use. What was in flight writes nowhere any more.</summary>
    internal static void destroyTransferEngine(void* engine) => s_destroyTransferEngine(engine);

    /// <summary>Writes the name that peers open, cut to the buffer. 0.</summary>
    internal static int getLocalIpAndPort(void* engine, byte* buffer, nuint length) => s_getLocalIpAndPort(engine, buffer, length);

    /// <summary>Fetches a peer's descriptor, once for each name: its number, above 0; 0 for the engine itself; -1 when it cannot be had.</summary>
    internal static int openSegment(void* engine, byte* name) => s_openSegment(engine, name);

    /// <summary>Connects to a peer over EFA ahead of the first read, where the library can. 0, or an error.</summary>
    internal static int warmupEfaSegment(void* engine, byte* name) => s_warmupEfaSegment == null ? 0 : s_warmupEfaSegment(engine, name);

    /// <summary>Registers memory, all or none. 0, or an error.</summary>
    internal static int registerLocalMemoryBatch(void* engine, BufferEntry* buffers, nuint count, byte* location)
        => s_registerLocalMemoryBatch(engine, buffers, count, location);

    /// <summary>Takes memory out again, by first addresses; goes on after an error and gives the first. 0, or an error.</summary>
    internal static int unregisterLocalMemoryBatch(void* engine, void** addresses, nuint count) => s_unregisterLocalMemoryBatch(engine, addresses, count);

    /// <summary>Makes a batch of up to so many requests. The number is a pointer: one that was freed must never be used again.</summary>
    internal static ulong allocateBatchID(void* engine, nuint count) => s_allocateBatchID(engine, count);

    /// <summary>Starts requests, which it copies; their numbers in the batch go on from the last one's. 0, or a batch's error, after which some may have started.</summary>
    internal static int submitTransfer(void* engine, ulong batch, TransferRequest* requests, nuint count) => s_submitTransfer(engine, batch, requests, count);

    /// <summary>How far a request is. 0, or a batch's error, and then <paramref name="status"/> is as it was.</summary>
    internal static int getTransferStatus(void* engine, ulong batch, nuint request, TransferStatus* status) => s_getTransferStatus(engine, batch, request, status);

    /// <summary>Frees a batch of which every request was seen to have ended. 0, or 4: one was not.</summary>
    internal static int freeBatchID(void* engine, ulong batch) => s_freeBatchID(engine, batch);

    /// <summary><c>struct transfer_request</c>.</summary>
    internal struct TransferRequest
    {
        internal int opcode;
        internal void* source;
        internal int target_id;
        internal ulong target_offset;
        internal ulong length;
    }

    /// <summary><c>struct transfer_status</c>.</summary>
    internal struct TransferStatus
    {
        internal int status;
        internal ulong transferred_bytes;
    }

    /// <summary><c>struct buffer_entry</c>.</summary>
    internal struct BufferEntry
    {
        internal void* addr;
        internal nuint length;
    }
}
