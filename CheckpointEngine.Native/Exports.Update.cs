using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Native;

/// <summary>Updates of inference servers.</summary>
internal static unsafe partial class Exports
{
    [ThreadStatic]
    private static string? t_updateWarnings;

    [UnmanagedCallersOnly(EntryPoint = "ce_server_update", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerUpdate(nint server, byte* name, CeUpdateOptions* options, nint cancel, CeUpdateReport* report)
    {
        try
        {
            Call.Enter();
            t_updateWarnings = null;
            ParameterServer found = Server(server);
            string text = Call.Text(name, "name");
            CeUpdateOptions given = Call.Options(options, "ce_update_options");
            if (report != null)
            {
                Call.Give(default(CeUpdateReport), report, "ce_update_report");     // before the work: a wrong size is told at once
            }
            var parsed = new InferenceUpdateOptions
            {
                Engine = Choose(given.Engine, "engine", InferenceEngine.Vllm, InferenceEngine.Sglang, InferenceEngine.Lmdeploy, InferenceEngine.VllmFiles, InferenceEngine.SglangFiles),
                UnixSocket = Call.OptionalText(given.UnixSocket, "unix_socket"),
                ApiKey = Call.OptionalText(given.ApiKey, "api_key"),
                WeightVersion = Call.OptionalText(given.WeightVersion, "weight_version"),
                DirectoryPath = Call.OptionalText(given.FilesDirectory, "files_directory"),
                InferenceParallelSize = given.ParallelSize == 0 ? 1 : (int)Math.Min(given.ParallelSize, int.MaxValue),
                WorkerProtocol = Choose(given.WorkerProtocol, "worker_protocol", WorkerProtocol.V04, WorkerProtocol.V02, WorkerProtocol.V01),
                Devices = Choose(given.Devices, "devices", UpdateDeviceKind.Host, UpdateDeviceKind.Cuda, UpdateDeviceKind.Auto),
                BucketBytes = (long)Math.Min(given.BucketBytes, long.MaxValue),
                FlushCache = given.KeepCache == 0,
                KeepFiles = given.KeepFiles != 0,
            };
            if (Call.OptionalText(given.Endpoint, "endpoint") is string endpoint)
            {
                parsed.Endpoint = Uri.TryCreate(endpoint, UriKind.Absolute, out Uri? url) ? url : throw new CallException(Status.Argument, $"endpoint '{endpoint}' is no URL");
            }
            parsed.HealthTimeout = given.HealthTimeoutMs == 0 ? parsed.HealthTimeout : Milliseconds(given.HealthTimeoutMs);
            parsed.StepTimeout = given.StepTimeoutMs == 0 ? parsed.StepTimeout : Milliseconds(given.StepTimeoutMs);
            parsed.UpdateTimeout = given.UpdateTimeoutMs == 0 ? parsed.UpdateTimeout : Milliseconds(given.UpdateTimeoutMs);
            InferenceUpdateReport done = found.UpdateAsync(text, parsed, null, NativeCancel.Token(cancel)).GetAwaiter().GetResult();
            t_updateWarnings = string.Join('\n', done.Notes.Select(line => line.ReplaceLineEndings(" ")));
            if (report != null)
            {
                Call.Give(ToReport(done), report, "ce_update_report");
            }
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_update_warnings", CallConvs = [typeof(CallConvCdecl)])]
    public static int UpdateWarnings(byte* buffer, nuint* size)
    {
        try
        {
            Call.Enter();
            return Call.Give(t_updateWarnings ?? "", buffer, size);
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    private static CeUpdateReport ToReport(InferenceUpdateReport done)
    {
        var report = new CeUpdateReport
        {
            Bytes = (ulong)done.Bytes,
            Tensors = (ulong)done.Tensors,
            BucketBytes = (ulong)done.BucketBytes,
            Buckets = (ulong)done.Buckets.Count,
            Seconds = done.Seconds,
            HealthSeconds = done.HealthSeconds,
            WriteSeconds = done.WriteSeconds,
            FinishSeconds = done.FinishSeconds,
        };
        foreach (InferenceBucketReport bucket in done.Buckets)
        {
            report.CopySeconds += bucket.CopySeconds;
            report.LoadSeconds += bucket.LoadSeconds;
        }
        return report;
    }
}
