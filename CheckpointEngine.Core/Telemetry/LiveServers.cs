using System.Diagnostics.Metrics;
using System.Runtime.CompilerServices;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Telemetry;

/// <summary>The servers of this process and their data ports, which instruments ask for their state.</summary>
/// <remarks>Any number of threads. A server that nobody disposed of is not kept by it.</remarks>
internal static class LiveServers
{
    private static readonly ConditionalWeakTable<ParameterServer, object?> s_servers = [];
    private static readonly Lock s_lock = new();
    private static readonly HashSet<TcpDataListener> s_ports = [];
    private static readonly Dictionary<string, long> s_endedByPeer = [];
    private static ServedTotals s_ended;        // of ports that are closed: a counter never goes back
    private static long s_leases;

    internal static void Add(ParameterServer server) => s_servers.Add(server, null);

    internal static void Remove(ParameterServer server)
    {
        if (EngineTelemetry.IsSupported)
        {
            s_servers.Remove(server);
        }
    }

    internal static long Sum(Func<ParameterServer, long> value)
    {
        long sum = 0;
        foreach ((ParameterServer server, _) in s_servers)
        {
            sum += value(server);
        }
        return sum;
    }

    /// <summary>Leases that live now.</summary>
    internal static long LiveLeases() => Volatile.Read(ref s_leases);

    internal static void LeaseTaken()
    {
        if (EngineTelemetry.IsSupported)
        {
            Interlocked.Increment(ref s_leases);
            EngineMetrics.LeasesTaken.Add(1);
        }
    }

    internal static void LeaseEnded() => Interlocked.Decrement(ref s_leases);

    internal static void Add(TcpDataListener port)
    {
        if (!EngineTelemetry.IsSupported)
        {
            return;
        }
        lock (s_lock)
        {
            s_ports.Add(port);
        }
    }

    /// <summary>Keeps what a port has sent, once none of its connections is open.</summary>
    internal static void Remove(TcpDataListener port)
    {
        if (!EngineTelemetry.IsSupported)
        {
            return;
        }
        lock (s_lock)
        {
            if (s_ports.Remove(port))
            {
                s_ended += port.Served();
                port.AddServedByPeer(s_endedByPeer);
            }
        }
    }

    /// <summary>What all ports have sent, those that are closed included.</summary>
    internal static ServedTotals Served()
    {
        lock (s_lock)
        {
            ServedTotals all = s_ended;
            foreach (TcpDataListener port in s_ports)
            {
                all += port.Served();
            }
            return all;
        }
    }

    /// <summary>And by peer, of the ports that measure it.</summary>
    internal static IEnumerable<Measurement<long>> ServedByPeer()
    {
        lock (s_lock)
        {
            var sums = new Dictionary<string, long>(s_endedByPeer);
            foreach (TcpDataListener port in s_ports)
            {
                port.AddServedByPeer(sums);
            }
            return [.. sums.Select(static sum => new Measurement<long>(sum.Value, new KeyValuePair<string, object?>("peer", sum.Key)))];
        }
    }
}
