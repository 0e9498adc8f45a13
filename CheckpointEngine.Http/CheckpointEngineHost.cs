using CheckpointEngine.Access;
using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Http.Hosting;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Telemetry;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Http;

/// <summary>A web server of its own over a <see cref="ParameterServer"/>: what <c>checkpoint-engine serve</c> runs.</summary>
/// <remarks>Any number of threads. Reads no configuration, takes no signals, logs only where it is told to.</remarks>
public sealed partial class CheckpointEngineHost : IAsyncDisposable
{
    private readonly WebApplication _application;

    private readonly ServerCertificates? _tls;

    private CheckpointEngineHost(WebApplication application, ServerCertificates? tls, IReadOnlyList<string> addresses)
    {
        _application = application;
        _tls = tls;
        Addresses = addresses;
    }

    /// <summary>Where it listens, in the order of the options and in their form, with the ports that were taken.</summary>
    public IReadOnlyList<string> Addresses { get; }

    /// <summary>Starts listening.</summary>
    /// <param name="server">The server whose checkpoints are told; stays the caller's.</param>
    /// <param name="options">Where to listen and whom to let in.</param>
    /// <param name="cancellationToken">Stops the start.</param>
    /// <exception cref="ArgumentException">An address is none, or https has no certificate.</exception>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.Refused"/>: others could reach an address that demands nothing; nothing listens then. Or an address cannot be
    /// bound, a file not be read.
    /// </exception>
    public static Task<CheckpointEngineHost> StartAsync(ParameterServer server, CheckpointEngineHostOptions options, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(server);
        ArgumentNullException.ThrowIfNull(options);
        return StartAsync(new ParameterServerStore(server), new EncodedMetas(), options, cancellationToken);
    }

    internal static async Task<CheckpointEngineHost> StartAsync(ICheckpointStore store, EncodedMetas encoded, CheckpointEngineHostOptions options,
        CancellationToken cancellationToken)
    {
        ListenAddress[] addresses = new ListenAddress[options.Listen.Count];
        for (int address = 0; address < addresses.Length; address++)
        {
            addresses[address] = await ListenAddress.ParseAsync(options.Listen[address], cancellationToken).ConfigureAwait(false);
            RefuseOpenDoor(addresses[address], options);
        }
        ServerCertificates? tls = Array.Exists(addresses, address => address.IsTls) ? ServerTls.Open(options) : null;

        var limiter = new ConnectionLimiter("http", options.Limits, options.LoggerFactory.CreateLogger("CheckpointEngine.Http"));
        var bound = new List<(ListenAddress Address, ListenOptions Listen)>();
        var door = new DoorListenerFactory(limiter, IsTls, options.RequestHeadTimeout, options.LoggerFactory);
        WebApplication application = Build(options, door, kestrel =>
        {
            foreach (ListenAddress address in addresses)
            {
                foreach (EndPoint endPoint in address.EndPoints)
                {
                    kestrel.Listen(endPoint, listen =>
                    {
                        LimitedConnections.Use(listen);       // before TLS, whose handshake is work
                        if (address.IsTls)
                        {
                            listen.UseHttps(ServerTls.OfEachConnection(tls!, options));
                        }
                        bound.Add((address, listen));
                    });
                }
            }
        });
        var endpoints = new CheckpointEngineHttpOptions
        {
            Token = options.Token,
            AcceptClientCertificates = options.TlsClientCaFile is not null,
            AllowPaths = options.AllowPaths,
            GatherPeers = options.GatherPeers,
            GatherClient = options.GatherClient,
            NotReady = options.NotReady,
        };
        LimitedConnections.Use(application);
        application.MapCheckpointEngine(store, encoded, endpoints);
        application.MapStatus(store, options.Telemetry ?? application.Services.GetRequiredService<TelemetryExport>(), options.MetricsOpen, endpoints);
        try
        {
            await application.StartAsync(cancellationToken).ConfigureAwait(false);
        }
        catch (Exception failure)
        {
            tls?.Dispose();
            await application.DisposeAsync().ConfigureAwait(false);
            if (failure is IOException or SocketException)
            {
                throw new CheckpointEngineException(CheckpointError.Io, $"listen at {string.Join(", ", options.Listen)}: {failure.Message}", 0, failure);
            }
            throw;
        }
        WarnOfPlainToken(addresses, options);
        return new CheckpointEngineHost(application, tls, [.. addresses.Select(address => address.ToText(FindPort(bound, address)))]);

        // The very end point: two addresses may both say port 0.
        bool IsTls(EndPoint endPoint) => Array.Exists(addresses, address => address.IsTls && address.EndPoints.Any(own => ReferenceEquals(own, endPoint)));
    }

    /// <summary>Stops listening and waits for the requests under way (<see cref="CheckpointEngineHostOptions.DrainTimeout"/>).</summary>
    public Task StopAsync(CancellationToken cancellationToken = default) => _application.StopAsync(cancellationToken);

    /// <summary>Reads the certificates' files now, which is otherwise done within two seconds of a change.</summary>
    /// <returns>Whether they could be used; if not, which is logged, those that were read before stay. True without https.</returns>
    public bool ReloadCertificates() => _tls?.Reload() ?? true;

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        _tls?.Dispose();
        await _application.StopAsync().ConfigureAwait(false);
        await _application.DisposeAsync().ConfigureAwait(false);
    }

    private static WebApplication Build(CheckpointEngineHostOptions options, DoorListenerFactory door, Action<KestrelServerOptions> listen)
    {
        // The empty builder has no configuration files, environment variables or log providers to read and make: a start takes milliseconds.
        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions
        {
            ApplicationName = "checkpoint-engine",
            ContentRootPath = AppContext.BaseDirectory,
        });
        builder.Services.AddRoutingCore();
        builder.Services.AddSingleton(options.LoggerFactory);
        builder.Services.AddSingleton(static _ => TelemetryExport.Start());     // disposed of with the application; not made where there is one already
        builder.Services.AddSingleton<IHostLifetime, SilentLifetime>();
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = options.DrainTimeout);
        builder.WebHost.UseKestrelCore();
        builder.Services.AddSingleton<IConnectionListenerFactory>(door);     // the last one is asked first
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.RequestHeadersTimeout = options.RequestHeadTimeout;
            kestrel.Limits.MaxConcurrentUpgradedConnections = 0;
            listen(kestrel);
        });
        return builder.Build();
    }

    // A client's certificate can only be asked for over TLS; it does nothing for a plain address.
    private static void RefuseOpenDoor(ListenAddress address, CheckpointEngineHostOptions options)
    {
        if (address.IsReachable && options.Token is null && !options.Insecure && !(address.IsTls && options.TlsClientCaFile is not null))
        {
            throw new CheckpointEngineException(CheckpointError.Refused,
                $"listen at {address.Text}: others can reach that address, and nothing keeps them out; set --token-file F, or --tls-client-ca F with an https address, or --insecure to let everybody in");
        }
    }

    private static void WarnOfPlainToken(ListenAddress[] addresses, CheckpointEngineHostOptions options)
    {
        foreach (ListenAddress address in addresses)
        {
            if (address is { IsTls: false, IsReachable: true } && options.Token is not null)
            {
                LogPlainToken(options.LoggerFactory.CreateLogger("CheckpointEngine.Http"), address.Text);
            }
        }
    }

    private static int FindPort(List<(ListenAddress Address, ListenOptions Listen)> bound, ListenAddress address)
        => bound.Find(entry => ReferenceEquals(entry.Address, address)).Listen.EndPoint is IPEndPoint ip ? ip.Port : 0;

    [LoggerMessage(EventId = 4002, Level = LogLevel.Warning, Message = "{Address} is not encrypted: who can listen in on the network can read the token; prefer https")]
    private static partial void LogPlainToken(ILogger logger, string address);
}
