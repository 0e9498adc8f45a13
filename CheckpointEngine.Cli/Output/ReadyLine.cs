using System.Text.Json;

namespace CheckpointEngine.Cli.Output;

/// <summary>Tells that a holder answers: one line of JSON for programs that wait for it, or a few for people.</summary>
internal static class ReadyLine
{
    public static void Print(ParameterServer server, IReadOnlyList<string> addresses, bool json)
    {
        string http = addresses.Count != 0 ? addresses[0] : "";
        if (json)
        {
            var line = new ServeReadyJson(true, http, server.P2pStoreAddress, server.CheckpointNames);
            Console.Out.WriteLine(JsonSerializer.Serialize(line, OutputJson.Default.ServeReadyJson));
            Console.Out.Flush();
            return;
        }
        Console.Out.WriteLine($"serving {string.Join(", ", server.CheckpointNames.Select(name => $"'{name}'"))} at {http}, bytes at {server.P2pStoreAddress}");
        Console.Out.WriteLine($"join with: checkpoint-engine join --metas-url {MetasUrl(server, http)}");
        Console.Out.Flush();
    }

    private static string MetasUrl(ParameterServer server, string http)
    {
        string url = http.StartsWith("unix:", StringComparison.Ordinal) ? http + ":/v1/metas" : http.TrimEnd('/') + "/v1/metas";
        return server.CheckpointNames.Count == 1 ? url : $"'{url}?checkpoint=NAME'";
    }
}
