using System.Globalization;
using System.Text.Json;

namespace CheckpointEngine.Rdma.Tests.Support;

/// <summary>A running <c>peer.py hold</c>: memory that can be read over RDMA, offered by nothing of the engine.</summary>
internal sealed class Peer : IAsyncDisposable
{
    public const string Python = "/usr/bin/python3";    // Debian's, which has Debian's pyverbs

    private Peer(ChildProcess process, JsonElement ready)
    {
        Process = process;
        Segment = ready.GetProperty("segment").GetString()!;
        Address = ready.GetProperty("address").GetUInt64();
        Length = ready.GetProperty("length").GetInt64();
    }

    public ChildProcess Process { get; }

    /// <summary>HOST:PORT of its handshake.</summary>
    public string Segment { get; }

    public ulong Address { get; }

    /// <summary>In bytes.</summary>
    public long Length { get; }

    /// <summary>Offers memory at a device's address through these devices; <paramref name="content"/>: <c>--size N --seed S</c> or <c>--file PATH</c>.</summary>
    public static async Task<Peer> HoldAsync(int[] devices, params string[] content)
    {
        ChildProcess process = ChildProcess.Start(Python, [Repository.Lab("peer.py"), "hold", .. Ends(devices), .. content]);
        try
        {
            return new Peer(process, await process.WaitForJsonAsync("{\"segment\":"));
        }
        catch
        {
            await process.DisposeAsync();
            throw;
        }
    }

    /// <summary>Reads with <c>peer.py read</c>; the outcome's JSON tells how it went.</summary>
    public static Task<Outcome> ReadAsync(int[] devices, string segment, ulong address, long length, params string[] more)
        => ChildProcess.RunAsync(Python, [Repository.Lab("peer.py"), "read", .. Ends(devices), "--segment", segment,
            "--address", address.ToString(CultureInfo.InvariantCulture), "--length", length.ToString(CultureInfo.InvariantCulture), .. more]);

    /// <summary>Reads all of it.</summary>
    public Task<Outcome> ReadAllAsync(int[] devices, params string[] more) => ReadAsync(devices, Segment, Address, Length, more);

    /// <summary>Connects and drops, that many times.</summary>
    public static Task<Outcome> ConnectAsync(int[] devices, string segment, int times, params string[] more)
        => ChildProcess.RunAsync(Python, [Repository.Lab("peer.py"), "connect", .. Ends(devices), "--segment", segment,
            "--times", times.ToString(CultureInfo.InvariantCulture), .. more]);

    public ValueTask DisposeAsync() => Process.DisposeAsync();

    private static string[] Ends(int[] devices)
        => ["--host", RdmaLab.Address(devices[0]), "--devices", string.Join(',', devices.Select(device => RdmaLab.Found[device]))];
}
