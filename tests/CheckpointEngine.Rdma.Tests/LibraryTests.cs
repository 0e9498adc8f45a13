using System.Globalization;
using CheckpointEngine.Rdma.Tests.Support;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>The C interface over RDMA, as Python calls it, at either end; and what a mapped holder does not copy.</summary>
public sealed class LibraryTests
{
    private const string Joins = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import checkpoint_engine as ce
        result = ce.join(sys.argv[2], directory=sys.argv[3], transport="rdma", verify="require")
        assert result.verified and all("rdma" in plane for plane in result.planes), result
        """;

    private const string Holds = """
        import json, sys
        sys.path.insert(0, sys.argv[1])
        import checkpoint_engine as ce
        with ce.ParameterServer(address=sys.argv[2], transport="rdma", hold="anon") as server:
            server.register_files("m", sys.argv[3])
            server.metas("m").save(sys.argv[4])
            print(json.dumps({"ready": True}), flush=True)
            sys.stdin.read()
        """;

    [LabFact]
    public async Task Python_Joins_IsBitForBit()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync([0], temp["model"], "--transport", "rdma");

        (await ChildProcess.RunAsync("/usr/bin/python3", "-c", Joins, Module, holder.MetasUrl, temp["copy"])).Succeeded();

        Same(temp["model"], temp["copy"]);
    }

    [LabFact]
    public async Task Python_Holds_IsReadBitForBit()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using ChildProcess holder = ChildProcess.Start("/usr/bin/python3", "-c", Holds, Module, RdmaLab.Address(0), temp["model"], temp["metas.json"]);
        await holder.WaitForJsonAsync("{\"ready\":");

        (await ChildProcess.RunAsync(Repository.Command, "join", "--load-metas-file", temp["metas.json"], "--to", "dir:" + temp["copy"], "--transport", "rdma",
            "--require-verify")).Succeeded();

        Same(temp["model"], temp["copy"]);
    }

    [LabFact]
    public async Task Serve_FilesMappedInPlace_AreRegisteredWithoutACopy()
    {
        const int Bytes = 64 << 20;
        DirectoryInfo directory = Directory.CreateDirectory($"/dev/shm/{Guid.NewGuid():N}");       // memory: its pages can be pinned where they are
        try
        {
            SmallCheckpoint.WriteSingle(directory.FullName, Bytes);
            await using Holder holder = await Holder.ServeAsync([0], directory.FullName, "--transport", "rdma", "--hold", "map");
            using var temp = new TempDirectory();
            (await ChildProcess.RunAsync(Repository.Command, "join", "--metas-url", holder.MetasUrl, "--to", "null", "--transport", "rdma", "--require-verify")).Succeeded();

            string anonymous = File.ReadLines($"/proc/{holder.ProcessId}/smaps_rollup").First(line => line.StartsWith("Anonymous:", StringComparison.Ordinal));
            long kib = long.Parse(anonymous.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture);

            Assert.InRange(kib, 1, Bytes / 1024 / 2);
        }
        finally
        {
            directory.Delete(recursive: true);
        }
    }

    private static string Module => Path.Combine(Path.GetDirectoryName(Path.GetDirectoryName(Repository.Command))!, "python");

    private static void Same(string model, string copy)
    {
        Dictionary<string, Tensor> expected = SmallCheckpoint.Read(model);
        Dictionary<string, Tensor> actual = SmallCheckpoint.Read(copy);
        Assert.Equal(expected.Count, actual.Count);
        Assert.All(expected, tensor => Assert.True(tensor.Value.Equals(actual[tensor.Key]), tensor.Key));
    }
}
