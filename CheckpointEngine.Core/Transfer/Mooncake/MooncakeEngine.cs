using System.Net;
using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using CheckpointEngine.Transfer.Handshake;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Mooncake;

/// <summary>One engine of Mooncake's library: its listeners, the memory that is registered with it, the segments it opened.</summary>
/// <remarks>
/// Any number of threads. Whoever calls into it is counted (<see cref="TryEnter"/>, <see cref="Exit"/>); it is destroyed when it is to end and nobody
/// is inside, for the library looks after neither. Reads cannot be cancelled: destroying the engine is the one way to end them.
/// </remarks>
internal sealed partial class MooncakeEngine : IDisposable
{
    /// <summary>Names the library where no option does.</summary>
    internal const string LibraryVariable = "CHECKPOINT_ENGINE_MOONCAKE_LIBRARY";

    internal const string DefaultLibrary = "libtransfer_engine.so";

    // It draws its port by chance, and gives up when others have it.
    private const int StartTries = 4;
    private const int MaxNameBytes = 512;

    // It is this process, but its port serves one after the other.
    private static readonly TimeSpan s_ownReply = TimeSpan.FromSeconds(10);

    private readonly ILogger _logger;
    private readonly Lock _lock = new();
    private readonly ManualResetEventSlim _destroyed = new();
    private readonly HashSet<nint> _registered = [];
    private readonly unsafe void* _engine;
    private int _inside;
    private bool _ending;

    private unsafe MooncakeEngine(void* engine, EndpointName name, ILogger logger)
    {
        _engine = engine;
        Name = name;
        _logger = logger;
    }

    /// <summary>What peers open: the announced host and a port that the library drew.</summary>
    internal EndpointName Name { get; }

    /// <summary>The transport that it installed, as its descriptor says.</summary>
    internal string Protocol { get; private set; } = "";

    /// <summary>Whether memory must be registered here before it is read into.</summary>
    internal bool ReadsIntoRegistered => Protocol != SegmentDescriptor.TcpProtocol;

    /// <summary>Why it was ended before its time; null when it was not.</summary>
    internal string? Failure { get; private set; }

    /// <summary>Where its handshake port is for this process: it listens on every interface, and the announced host may not be reachable from here.</summary>
    internal EndpointName LocalName => new((Name.Host.Contains(':') ? IPAddress.IPv6Loopback : IPAddress.Loopback).ToString(), Name.Port);

    /// <summary>For <see cref="LibTransferEngine"/>, by who is inside.</summary>
    internal unsafe void* Pointer => _engine;

    /// <summary>The library that the user means.</summary>
    internal static string LibraryFor(string? named)
        => named ?? (Environment.GetEnvironmentVariable(LibraryVariable) is { Length: > 0 } variable ? variable : DefaultLibrary);

    /// <summary>Loads the library and starts an engine of it.</summary>
    /// <param name="library">A path; null for what <see cref="LibraryVariable"/> says, then the loader's.</param>
    /// <param name="host">The address that others reach this process by.</param>
    /// <param name="logger">Told which release it is, and what is lost.</param>
    /// <param name="cancellationToken">Ends the wait for its answer.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: no library. <see cref="CheckpointError.Native"/>: it does not start.</exception>
    internal static async Task<MooncakeEngine> StartAsync(string? library, IPAddress host, ILogger logger, CancellationToken cancellationToken)
    {
        string path = LibraryFor(library);
        if (!LibTransferEngine.TryLoad(path, out string? reason))
        {
            ThrowHelper.Throw(CheckpointError.NotSupported,
                $"start Mooncake's transfer engine: {reason}; name the library with --mooncake-library or {LibraryVariable}, or take another --transport");
        }
        MooncakeEngine engine = Create(host, logger);
        try
        {
            SegmentDescriptor own = SegmentDescriptorReader.Read(await engine.FetchOwnDescriptorAsync(cancellationToken).ConfigureAwait(false));
            engine.Protocol = own.Protocol;
            engine.LogStarted(path, LibTransferEngine.Release, engine.Name, engine.Protocol);
            if (LibTransferEngine.ServesAnyMemory && !engine.ReadsIntoRegistered)
            {
                engine.LogServesAnyMemory(path, LibTransferEngine.Release);
            }
            return engine;
        }
        catch
        {
            engine.Dispose();
            throw;
        }
    }

    /// <summary>The JSON text of its descriptor at this moment.</summary>
    internal async Task<byte[]> FetchOwnDescriptorAsync(CancellationToken cancellationToken)
        => await HandshakeClient.ExchangeAsync(LocalName, "asking Mooncake's library for its own descriptor at", MessageType.Metadata,
            HandshakeBodies.EmptyObject.ToArray(), new HandshakeClientOptions { MaxFrameBytes = HandshakeFrame.LargestMaxLength, ReplyTimeout = s_ownReply }, cancellationToken).ConfigureAwait(false);

    private static unsafe MooncakeEngine Create(IPAddress host, ILogger logger)
    {
        if (host.AddressFamily == System.Net.Sockets.AddressFamily.InterNetworkV6)
        {
            _ = Libc.setenv("MC_USE_IPV6", "1", 0);         // else it listens where nobody will look for it
        }
        byte[] hostText = Text(host.ToString());
        fixed (byte* metadata = "P2PHANDSHAKE\0"u8)
        fixed (byte* hostName = hostText)
        {
            void* engine = null;
            for (int left = StartTries; engine == null && left > 0; left--)
            {
                engine = LibTransferEngine.createTransferEngine(metadata, hostName, hostName, 0, 1);
            }
            if (engine == null)
            {
                ThrowHelper.Throw(CheckpointError.Native, $"start Mooncake's transfer engine for {host}: createTransferEngine gave nothing, "
                    + $"{StartTries} times; its log says why (MC_LOG_LEVEL=INFO). Are its ports (MC_MIN_RPC_PORT, MC_MAX_RPC_PORT) and devices free? MC_FORCE_TCP=1 needs none");
            }
            byte* name = stackalloc byte[MaxNameBytes];
            NativeMemory.Clear(name, MaxNameBytes);
            string text = LibTransferEngine.getLocalIpAndPort(engine, name, MaxNameBytes - 1) == 0 ? Marshal.PtrToStringUTF8((nint)name) ?? "" : "";
            if (!EndpointName.TryParse(text, out EndpointName parsed))
            {
                LibTransferEngine.destroyTransferEngine(engine);
                ThrowHelper.Throw(CheckpointError.Native, $"start Mooncake's transfer engine for {host}: it calls itself '{HandshakeJson.Printable(text)}', which is no host:port");
            }
            return new MooncakeEngine(engine, parsed, logger);
        }
    }

    /// <summary>Counts a caller in; false when it is ending, and then nothing may be called.</summary>
    internal bool TryEnter()
    {
        lock (_lock)
        {
            _inside += _ending ? 0 : 1;
            return !_ending;
        }
    }

    /// <summary>Counts a caller out.</summary>
    internal void Exit()
    {
        bool last;
        lock (_lock)
        {
            last = --_inside == 0 && _ending;
        }
        if (last)
        {
            Destroy();
        }
    }

    /// <summary>Ends the engine because reads of it cannot be ended in another way: by one who is inside, and is not any more. Waits for the others to leave.</summary>
    internal void Abandon(string reason)
    {
        bool isFirst;
        lock (_lock)
        {
            isFirst = Failure is null;
            Failure ??= reason;
            _ending = true;
        }
        if (isFirst)
        {
            LogAbandoned(Name, reason);
        }
        Exit();
        _destroyed.Wait();
    }

    /// <summary>Opens a peer's segment, whose descriptor was looked at before; blocks for up to a minute.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Unreachable"/>.</exception>
    internal unsafe int OpenSegment(EndpointName peer)
    {
        int segment = Inside(peer, static (engine, peer) =>
        {
            fixed (byte* name = Text(peer.ToString()))
            {
                int segment = LibTransferEngine.openSegment(engine._engine, name);
                if (segment > 0)
                {
                    _ = LibTransferEngine.warmupEfaSegment(engine._engine, name);
                }
                return segment;
            }
        });
        return segment > 0 ? segment : ThrowHelper.Throw<int>(CheckpointError.Unreachable, segment == 0
            ? $"the library takes {peer} for itself"
            : $"the library cannot open {peer}: {MooncakeStatus.Describe(segment)}. A descriptor of more than 1 MiB (13,000 buffers) needs MC_HANDSHAKE_MAX_LENGTH here");
    }

    /// <summary>Registers memory in one call, all of it or none.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: the library refuses it.</exception>
    internal unsafe void Register(IReadOnlyList<(nint Address, long LengthBytes)> regions)
    {
        if (regions.Count == 0)
        {
            return;
        }
        int code = Inside(regions, static (engine, regions) =>
        {
            var entries = new LibTransferEngine.BufferEntry[regions.Count];
            for (int i = 0; i < entries.Length; i++)
            {
                entries[i] = new LibTransferEngine.BufferEntry { addr = (void*)regions[i].Address, length = (nuint)regions[i].LengthBytes };
            }
            fixed (LibTransferEngine.BufferEntry* first = entries)
            fixed (byte* anywhere = "*\0"u8)
            {
                return LibTransferEngine.registerLocalMemoryBatch(engine._engine, first, (nuint)entries.Length, anywhere);
            }
        });
        if (code != 0)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, $"register {regions.Sum(region => region.LengthBytes):N0} bytes in {regions.Count} buffers "
                + $"(the first at 0x{regions[0].Address:x}) with Mooncake's library: {MooncakeStatus.Describe(code)}. RDMA devices need memory that can be locked (ulimit -l) and written (--hold anon)");
        }
        lock (_lock)
        {
            foreach ((nint address, _) in regions)
            {
                _registered.Add(address);
            }
        }
    }

    /// <summary>Takes memory out again, by first addresses; what is not registered is passed over.</summary>
    internal unsafe void Unregister(IEnumerable<nint> addresses)
    {
        nint[] taken;
        lock (_lock)
        {
            taken = [.. addresses.Where(_registered.Remove)];
        }
        if (taken.Length == 0 || !TryEnter())
        {
            return;         // an engine that was destroyed has nothing registered
        }
        try
        {
            fixed (nint* first = taken)
            {
                int code = LibTransferEngine.unregisterLocalMemoryBatch(_engine, (void**)first, (nuint)taken.Length);
                if (code != 0)
                {
                    LogNotUnregistered(taken.Length, MooncakeStatus.Describe(code));
                }
            }
        }
        finally
        {
            Exit();
        }
    }

    /// <summary>Takes out what is still registered.</summary>
    internal void UnregisterAll()
    {
        nint[] all;
        lock (_lock)
        {
            all = [.. _registered];
        }
        Unregister(all);
    }

    /// <summary>Tells of a batch whose memory the library keeps for good.</summary>
    internal void Leaked(ulong batch, string reason) => LogLeaked(batch, reason);

    private int Inside<T>(T argument, Func<MooncakeEngine, T, int> call)
    {
        if (!TryEnter())
        {
            ThrowHelper.Throw(CheckpointError.Unreachable, $"Mooncake's transfer engine at {Name} has ended{(Failure is null ? "" : ": " + Failure)}");
        }
        try
        {
            return call(this, argument);
        }
        finally
        {
            Exit();
        }
    }

    private static byte[] Text(string text) => [.. Encoding.UTF8.GetBytes(text), 0];

    private unsafe void Destroy()
    {
        LibTransferEngine.destroyTransferEngine(_engine);
        _destroyed.Set();
    }

    /// <summary>Ends it when nobody is inside any more, and waits for that; up to a second longer than that takes.</summary>
    public void Dispose()
    {
        bool isLast;
        lock (_lock)
        {
            isLast = !_ending && _inside == 0;
            _ending = true;
        }
        if (isLast)
        {
            Destroy();
        }
        _destroyed.Wait();
    }

    [LoggerMessage(EventId = 2401, Level = LogLevel.Information, Message = "mooncake: {Library} ({Release}) at {Name} over {Protocol}")]
    private partial void LogStarted(string library, string release, EndpointName name, string protocol);

    [LoggerMessage(EventId = 2402, Level = LogLevel.Warning, Message = "mooncake: {Library} is {Release}: who reaches its data port can read and write any memory of this process; take v0.3.12 or later")]
    private partial void LogServesAnyMemory(string library, string release);

    [LoggerMessage(EventId = 2403, Level = LogLevel.Warning, Message = "mooncake: the engine at {Name} is ended: {Reason}")]
    private partial void LogAbandoned(EndpointName name, string reason);

    [LoggerMessage(EventId = 2404, Level = LogLevel.Warning, Message = "mooncake: {Count} buffers were to be unregistered: {Reason}")]
    private partial void LogNotUnregistered(int count, string reason);

    [LoggerMessage(EventId = 2405, Level = LogLevel.Warning, Message = "mooncake: batch 0x{Batch:x} stays allocated: {Reason}")]
    private partial void LogLeaked(ulong batch, string reason);
}
