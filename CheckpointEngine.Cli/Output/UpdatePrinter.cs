using System.Text.Json;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Cli.Output;

/// <summary>Prints what an update did.</summary>
internal static class UpdatePrinter
{
    public static void Print(InferenceUpdateReport report, bool json)
    {
        foreach (string note in report.Notes)
        {
            Stderr.Note(note);
        }
        if (json)
        {
            Console.Out.WriteLine(JsonSerializer.Serialize(Document(report), OutputJson.Default.UpdateJson));
        }
        else
        {
            string buckets = report.Buckets.Count == 0 ? $"files written in {Quantity.Seconds(report.WriteSeconds)} s" : $"{report.Buckets.Count} {(report.Buckets.Count == 1 ? "bucket" : "buckets")} for {report.Devices.Count} {(report.Devices.Count == 1 ? "worker" : "workers")}";
            Console.Out.WriteLine($"updated from '{report.Checkpoint}': {Quantity.Count(report.Tensors)} tensors, {Quantity.Bytes(report.Bytes)} in {Quantity.Seconds(report.Seconds)} s, "
                + $"{report.GibPerSecond:0.00} GiB/s; {buckets}");
            var table = new TextTable(["phase", ">seconds"]);
            table.Add(["health", Quantity.Seconds(report.HealthSeconds)]);
            table.Add(["open", Quantity.Seconds(report.OpenSeconds)]);
            if (report.Buckets.Count != 0)
            {
                table.Add(["connect", Quantity.Seconds(report.Devices.Max(device => device.HandleSeconds))]);
                table.Add(["copy", Quantity.Seconds(report.Buckets.Sum(bucket => bucket.CopySeconds))]);
                table.Add(["load", Quantity.Seconds(report.Buckets.Sum(bucket => bucket.LoadSeconds))]);
            }
            else
            {
                table.Add(["write", Quantity.Seconds(report.WriteSeconds)]);
            }
            table.Add(["finish", Quantity.Seconds(report.FinishSeconds)]);
            table.Print(Console.Out);
        }
        Console.Out.Flush();
    }

    public static UpdateJson Document(InferenceUpdateReport report) => new(
        report.Checkpoint, report.Bytes, report.Tensors, Round(report.Seconds), Round(report.GibPerSecond), report.BucketBytes, Round(report.HealthSeconds), Round(report.OpenSeconds), Round(report.WriteSeconds),
        Round(report.FinishSeconds),
        [.. report.Buckets.Select(bucket => new UpdateBucketJson(bucket.Bytes, bucket.Tensors, Round(bucket.CopySeconds), Round(bucket.LoadSeconds)))],
        [.. report.Devices.Select(device => new UpdateDeviceJson(device.Uuid, Round(device.HandleSeconds), Round(device.LoadSeconds), Round(device.FinishSeconds)))],
        report.Notes);

    private static double Round(double value) => Math.Round(value, 6);
}
