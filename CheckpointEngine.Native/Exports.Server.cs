using System.Net;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Native;

/// <summary>Servers.</summary>
internal static unsafe partial class Exports
{
    private const uint JoinOnly = 1;
    private const uint Consume = 2;
    private const uint SharedPool = 4;
    private const uint RequireLease = 8;

    // Of version 0.2.
    private const int FirstServerOptionsBytes = 64;

    [UnmanagedCallersOnly(EntryPoint = "ce_server_create", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerCreate(CeServerOptions* options, nint* server)
    {
        try
        {
            Begin(server, "server");
            CeServerOptions given = Call.Options(options, "ce_server_options", FirstServerOptionsBytes);
            if ((given.Flags & ~(JoinOnly | Consume | SharedPool | RequireLease)) != 0)
            {
                throw new CallException(Status.Argument, $"flags 0x{given.Flags:x} has bits that mean nothing");
            }
            if (given.Port > ushort.MaxValue)
            {
                throw new CallException(Status.Argument, $"port {given.Port} is none");
            }
            string address = Call.OptionalText(given.Address, "address") ?? "127.0.0.1";
            var parsed = new ParameterServerOptions
            {
                Address = IPAddress.TryParse(address, out IPAddress? ip) ? ip : throw new CallException(Status.Argument, $"address '{address}' is no IP address"),
                Token = Call.OptionalText(given.Token, "token") is string token ? AccessToken.FromText(token) : null,
                PlainPeers = Call.OptionalText(given.PlainPeers, "plain_peers") is string peers ? PlainPeers.Parse(peers) : null,
                LocalSocket = Call.OptionalText(given.LocalSocket, "local_socket"),
                LocalPeers = Call.OptionalText(given.LocalPeers, "local_peers") is string users ? LocalPeers.Parse(users) : LocalPeers.Own,
                Consume = (given.Flags & Consume) != 0,
                SharedPool = (given.Flags & SharedPool) != 0,
                RequireLease = (given.Flags & RequireLease) != 0,
                GraceTime = TimeSpan.FromMilliseconds(Math.Min(given.GraceTimeMs, int.MaxValue)),
                AttachFiles = given.AttachFiles != 0,
                RdmaDevices = Call.OptionalText(given.RdmaDevices, "rdma_devices"),
                Transport = Choose(given.Transport, "transport", TransportChoice.Auto, TransportChoice.Tcp, TransportChoice.Local, TransportChoice.Rdma, TransportChoice.Mooncake),
                Rank = given.Rank >= 0 ? given.Rank : throw new CallException(Status.Argument, $"rank {given.Rank} is negative"),
                Port = (int)given.Port,
                Hold = Choose(given.Hold, "hold", HoldMode.Map, HoldMode.Memfd, HoldMode.Anonymous),
                Pin = Choose(given.Pin, "pin", PinMode.Auto, PinMode.Mlock, PinMode.None),
                Digest = Choose(given.Digest, "digest", DigestAlgorithm.Xxh3, DigestAlgorithm.Sha256, DigestAlgorithm.None),
                PeerTls = ServerGuards.PeerTls(given),
                EncryptData = given.EncryptData != 0,
                ClientTls = ServerGuards.ClientTls(given),
                Limits = ServerGuards.Limits(given),
            };
            if (Call.OptionalText(given.AuditLog, "audit_log") is string audit)
            {
                parsed.LoggerFactory = new NativeAudit(audit);
            }
            if (given.DrainTimeoutMs != 0)
            {
                parsed.DrainTimeout = Milliseconds(given.DrainTimeoutMs);
            }
            var made = new ParameterServer(parsed);
            try
            {
                if ((given.Flags & JoinOnly) == 0)
                {
                    made.StartAsync().GetAwaiter().GetResult();
                }
                *server = Handles.Add(new NativeServer(made));
            }
            catch
            {
                made.DisposeAsync().AsTask().GetAwaiter().GetResult();
                throw;
            }
            return Ok;
        }
        catch (Exception unfit) when (unfit is FormatException or InvalidOperationException)     // plain_peers; a wildcard as address
        {
            return Call.Fail(Status.Argument, unfit.Message);
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_destroy", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerDestroy(nint server)
    {
        try
        {
            Call.Enter();
            if (server == 0)
            {
                return Ok;
            }
            if (NativeJoin.InCallbackOf is NativeJoin join && Handles.Get<NativeServer>(server) == join.Server)
            {
                throw new CallException(Status.State, "a callback cannot destroy the server of its own join: return first");
            }
            Handles.Remove<NativeServer>(server).Destroy();
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_peer_url", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerPeerUrl(nint server, byte* buffer, nuint* size)
    {
        try
        {
            Call.Enter();
            return Call.Give(Server(server).PeerUrl, buffer, size);
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_p2p_address", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerP2pAddress(nint server, byte* buffer, nuint* size)
    {
        try
        {
            Call.Enter();
            return Call.Give(Server(server).P2pStoreAddress, buffer, size);
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_set_token", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerSetToken(nint server, byte* token)
    {
        try
        {
            Call.Enter();
            AccessToken now = Server(server).Options.Token ?? throw new CallException(Status.State, "the server was made without a token, and goes without one");
            now.Become(AccessToken.FromText(Call.Text(token, "token")));
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_reload_certificates", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerReloadCertificates(nint server)
    {
        try
        {
            Call.Enter();
            ParameterServer reloaded = Server(server);
            if (reloaded.Options.PeerTls is null)
            {
                throw new CallException(Status.State, "the server was made without a certificate (tls_cert_file), and speaks no TLS");
            }
            return reloaded.ReloadCertificates(out CheckpointEngineException? unusable) ? Ok : throw unusable ?? (Exception)new ObjectDisposedException(null);
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_finish_relays", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerFinishRelays(nint server, ulong timeoutMs, nint cancel, uint* everybodyDone)
    {
        try
        {
            Call.Enter();
            bool done = Server(server).FinishRelaysAsync(Milliseconds(timeoutMs), NativeCancel.Token(cancel)).GetAwaiter().GetResult();
            if (everybodyDone != null)
            {
                *everybodyDone = done ? 1U : 0;
            }
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_metas", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerMetas(nint server, byte* name, nint* metas)
    {
        try
        {
            Begin(metas, "metas");
            *metas = Handles.Add(new NativeMetas(Server(server).GetMetas(Call.Text(name, "name")).Metas));
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_load_metas", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerLoadMetas(nint server, byte* name, nint metas)
    {
        try
        {
            Call.Enter();
            Server(server).LoadMetas(Call.Text(name, "name"), Handles.Get<NativeMetas>(metas).Metas);
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_checkpoint", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerCheckpoint(nint server, byte* name, nint* checkpoint)
    {
        try
        {
            Begin(checkpoint, "checkpoint");
            *checkpoint = OpenCheckpoint(Server(server), Call.Text(name, "name"));
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    private static ParameterServer Server(nint handle) => Handles.Get<NativeServer>(handle).Server;

    private static string[] Texts(byte** texts, nuint count, string what)
    {
        if (count != 0)
        {
            Call.NotNull(texts, what);
        }
        if (count > 1 << 20)
        {
            throw new CallException(Status.Argument, $"{what}: {count:N0} of them are too many");
        }
        var read = new string[(int)count];
        for (int i = 0; i < read.Length; i++)
        {
            read[i] = Call.Text(texts[i], $"{what}[{i}]");
        }
        return read;
    }
}
