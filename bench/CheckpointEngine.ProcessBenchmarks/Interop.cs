using System.Globalization;
using System.Text;
using System.Text.Json;
using CheckpointEngine.ProcessBenchmarks.Compare;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// Our processes in Mooncake's place over TCP: our joiner beside Mooncake's initiator, both from one Mooncake holder; and Mooncake's initiator at our holder
/// beside the same at a Mooncake holder. In turns.
/// </summary>
/// <remarks>
/// Mooncake's initiator is <c>te-read-bench</c>, which reads the same few blocks again and again; our joiner reads all of the holder's memory, in tensors of a
/// block each, and its time is that of the whole join, connecting included, but for the first, which finds its memory fresh. docs/interop.md has the programs.
/// </remarks>
internal static class Interop
{
    private const int HeldBytes = 256 << 20;
    private const int Rounds = 4;
    private const double LeastRatio = 1;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);
    private static readonly (int Block, int Depth)[] s_rows = [(64 << 10, 16), (1 << 20, 16), (16 << 20, 4)];
    private static readonly Dictionary<string, string> s_environment = new() { ["MC_FORCE_TCP"] = "1", ["GLOG_minloglevel"] = "2" };

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string directory = Environment.GetEnvironmentVariable(MooncakeTarget.Variable) is { Length: > 0 } named
            ? named
            : throw new BenchmarkFailedException($"{MooncakeTarget.Variable} must name the directory of te-read-bench and mooncake-peer");
        using ChildProcess mooncake = ChildProcess.Start(Path.Combine(directory, "mooncake-peer"), ["hold", "--size", $"{HeldBytes}", "--seed", "1"], Workbench.LongestServer, s_environment);
        using JsonDocument held = JsonDocument.Parse(mooncake.WaitForLine("{\"segment\":", s_patience));
        string theirSegment = held.RootElement.GetProperty("segment").GetString()!;
        ulong theirAddress = held.RootElement.GetProperty("address").GetUInt64();

        string checkpoint = Path.Combine(bench.ScratchDirectory, "held.safetensors");
        WriteCheckpoint(checkpoint);
        using var holder = new HolderProcess(bench, checkpoint, "--hold", "anon", "--transport", "tcp");
        using JsonDocument metas = JsonDocument.Parse(Workbench.Run(bench.Command, "metas", "--metas-url", holder.MetasUrl, "--format", "json"));
        JsonElement owner = metas.RootElement.EnumerateObject().First().Value;
        string ourSegment = owner.GetProperty("p2p_store_addr").GetString()!;
        ulong ourAddress = owner.GetProperty("memory_buffer_metas_list")[0].GetProperty("ptr").GetUInt64();

        foreach ((int block, int depth) in s_rows)
        {
            string told = Path.Combine(bench.ScratchDirectory, $"blocks-{block}.json");
            File.WriteAllText(told, TellBlocks(theirSegment, theirAddress, block));
            List<double> initiator = [], joiner = [], fromUs = [];
            for (int pass = 0; pass < bench.Options.Passes; pass++)
            {
                Action[] turns = [() => initiator.Add(Read(theirSegment, theirAddress)), () => joiner.Add(Join(bench, told)), () => fromUs.Add(Read(ourSegment, ourAddress))];
                for (int turn = 0; turn < turns.Length; turn++)
                {
                    turns[pass % 2 == 0 ? turn : turns.Length - 1 - turn]();      // every other pass backwards: whoever comes second finds another machine
                }
            }
            Score("our joiner over Mooncake's initiator, from Mooncake", joiner);
            Score("Mooncake's initiator from our holder over the same from Mooncake", fromUs);

            double Read(string segment, ulong address)
                => double.Parse(ChildProcess.Run(Path.Combine(directory, "te-read-bench"), [segment, address.ToString("x", CultureInfo.InvariantCulture), $"{block}", $"{2 * (HeldBytes / block)}", $"{depth}"],
                    s_patience, s_environment).Split(' ')[0], CultureInfo.InvariantCulture);

            void Score(string what, List<double> ours)
                => scoreboard.AtLeast($"{what}, {block >> 10} KiB", Statistics.Median(ours.Zip(initiator, static (a, b) => a / b)), LeastRatio,
                    $"{Statistics.Median(ours):0.00} ({Statistics.Range(ours, "0.00")}) and {Statistics.Median(initiator):0.00} ({Statistics.Range(initiator, "0.00")}) GB/s, median of {bench.Options.Passes} pairs");
        }
        return Task.CompletedTask;
    }

    private static double Join(Workbench bench, string metas)
    {
        using JsonDocument report = JsonDocument.Parse(Workbench.Run(bench.Command, "join", "--load-metas-file", metas, "--to", "memory", "--transport", "tcp", "--no-verify", "--repeat", $"{Rounds}", "--json"));
        return HeldBytes / Statistics.Median(report.RootElement.GetProperty("rounds").EnumerateArray().Skip(1).Select(round => round.GetProperty("seconds").GetDouble())) / 1e9;
    }

    private static void WriteCheckpoint(string file)
    {
        byte[] header = Encoding.UTF8.GetBytes($"{{\"t\":{{\"dtype\":\"U8\",\"shape\":[{HeldBytes}],\"data_offsets\":[0,{HeldBytes}]}}}}".PadRight(120));
        using FileStream stream = File.Create(file);
        stream.Write(BitConverter.GetBytes((long)header.Length));
        stream.Write(header);
        byte[] piece = new byte[1 << 20];
        var random = new Random(1);
        for (int written = 0; written < HeldBytes; written += piece.Length)
        {
            random.NextBytes(piece);
            stream.Write(piece);
        }
    }

    private static string TellBlocks(string segment, ulong address, int block)
    {
        var tensors = Enumerable.Range(0, HeldBytes / block).Select(index => $"{{\"name\":\"t{index}\",\"dtype\":\"torch.uint8\",\"shape\":[{block}],\"aligned_size\":{block}}}");
        return $"{{\"0\":{{\"p2p_store_addr\":\"{segment}\",\"memory_buffer_metas_list\":[{{\"metas\":[{string.Join(',', tensors)}],\"ptr\":{address},\"size\":{HeldBytes}}}],\"rdma_device\":\"\"}}}}";
    }
}
