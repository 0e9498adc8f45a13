using System.Text.Json;

namespace CheckpointEngine.Rdma.Tests.Support;

/// <summary>A running <c>serve</c> at the address of its first device.</summary>
internal sealed class Holder(ChildProcess process, JsonElement ready) : IAsyncDisposable
{
    public string MetasUrl => ready.GetProperty("http").GetString()! + "/v1/metas";

    public int ProcessId => process.ProcessId;

    public string P2pStoreAddress => ready.GetProperty("p2p_store_addr").GetString()!;

    public static async Task<Holder> ServeAsync(int[] devices, string directory, params string[] more)
    {
        string address = RdmaLab.Address(devices[0]);
        ChildProcess process = ChildProcess.Start(Repository.Command, ["serve", "--checkpoint", "m=" + directory, "--listen", $"http://{address}:0",
            "--address", address, "--insecure", "--devices", RdmaLab.Names(devices), "--json", .. more]);
        try
        {
            return new Holder(process, await process.WaitForJsonAsync("{\"ready\":"));
        }
        catch
        {
            await process.DisposeAsync();
            throw;
        }
    }

    public void Kill() => process.Signal(ChildProcess.SigKill);

    public ValueTask DisposeAsync() => process.DisposeAsync();
}
