using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Native;

/// <summary>Joins.</summary>
internal static unsafe partial class Exports
{
    // Of version 0.2.
    private const int FirstJoinOptionsBytes = 160;
    private const int FirstJoinReportBytes = 96;

    private const ulong Never = ulong.MaxValue - 1;      // CE_NEVER

    [UnmanagedCallersOnly(EntryPoint = "ce_join_start", CallConvs = [typeof(CallConvCdecl)])]
    public static int JoinStart(nint server, CeJoinOptions* options, nint* join)
    {
        CheckpointEngine.Checkpoints.CallerTensors? tensors = null;
        MetasSource? source = null;
        try
        {
            Begin(join, "join");
            NativeServer found = Handles.Get<NativeServer>(server);
            Call.NotNull(options, "ce_join_options");
            CeJoinOptions given = Call.Options(options, "ce_join_options", FirstJoinOptionsBytes);
            source = Source(given, found.Server);
            JoinDestinationKind destination = Choose(given.Destination, "destination",
                JoinDestinationKind.Memory, JoinDestinationKind.Tensors, JoinDestinationKind.Buckets, JoinDestinationKind.Directory, JoinDestinationKind.Null);
            uint verify = Choose(given.Verify, "verify", 0U, 1U, 2U);
            if (given.Lanes > 1024 || given.Reserved != 0)
            {
                throw new CallException(Status.Argument, $"lanes is {given.Lanes}, at most 1024; reserved is {given.Reserved}, and must be 0");
            }
            BucketCallback? callback = null;
            if (destination == JoinDestinationKind.Buckets)
            {
                Call.NotNull(given.OnBucket, "on_bucket");
                callback = new BucketCallback(given.OnBucket, given.User);
            }
            var parsed = new JoinOptions
            {
                CheckpointName = Call.OptionalText(given.CheckpointName, "checkpoint_name") ?? new JoinOptions().CheckpointName,
                Destination = destination,
                DirectoryPath = destination == JoinDestinationKind.Directory ? Call.Text(given.Directory, "directory") : null,
                Tensors = tensors = destination == JoinDestinationKind.Tensors ? Tensors(given.Tensors, given.TensorCount) : null,
                OnBucket = callback is null ? null : callback.OnBucket,
                Include = Texts(given.Include, given.IncludeCount, "include"),
                Exclude = Texts(given.Exclude, given.ExcludeCount, "exclude"),
                WeightsOnly = given.WeightsOnly != 0,
                Verify = verify != 2,
                RequireVerify = verify == 1,
                Transport = Choose(given.Transport, "transport", TransportChoice.Auto, TransportChoice.Tcp, TransportChoice.Local, TransportChoice.Rdma, TransportChoice.Mooncake),
                Copy = given.Copy != 0,
                AttachFiles = given.AttachFiles != 0,
                Lanes = (int)given.Lanes,
                Replace = given.Replace != 0,
                Relay = given.Relay != 0,
                EarlierCheckpoint = Call.OptionalText(given.EarlierCheckpoint, "earlier_checkpoint"),
            };
            if (given.BucketBytes != 0)
            {
                parsed.BucketBytes = (long)Math.Min(given.BucketBytes, long.MaxValue);
            }
            if (given.TimeoutMs != 0)
            {
                parsed.Timeout = Milliseconds(given.TimeoutMs);
            }
            if (given.StallTimeoutMs != 0)
            {
                parsed.StallTimeout = TimeSpan.FromMilliseconds(Math.Min(given.StallTimeoutMs, int.MaxValue));
            }
            if (given.RetryTimeoutMs != 0)
            {
                parsed.AskTimeout = given.RetryTimeoutMs > int.MaxValue ? TimeSpan.MaxValue : TimeSpan.FromMilliseconds(given.RetryTimeoutMs);
            }
            if (source.MayChange && given.RetryTimeoutMs != Never)
            {
                parsed.AskForMetas = source.FetchAsync;
            }
            tensors?.ThrowIfUnfit();
            var started = new NativeJoin(found, source, parsed, callback);
            (tensors, source) = (null, null);       // the join's from here on
            try
            {
                *join = Handles.Add(started);
            }
            catch
            {
                started.Cancel();
                started.WaitForEnd();
                throw;
            }
            return Ok;
        }
        catch (Exception failure)
        {
            tensors?.Dispose();
            source?.Dispose();
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_join_poll", CallConvs = [typeof(CallConvCdecl)])]
    public static int JoinPoll(nint join, CeJoinProgress* progress)
    {
        try
        {
            Call.Enter();
            Call.Give(Handles.Get<NativeJoin>(join).Progress, progress, "ce_join_progress");
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_join_wait", CallConvs = [typeof(CallConvCdecl)])]
    public static int JoinWait(nint join, ulong timeoutMs)
    {
        try
        {
            Call.Enter();
            NativeJoin found = NotInItsCallback(join);
            if (!found.Wait(timeoutMs))
            {
                return Call.Fail(Status.Pending, "the join has not ended yet");
            }
            (Status status, string text) = found.Outcome;
            return status == Status.Ok ? Ok : Call.Fail(status, text);
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_join_cancel", CallConvs = [typeof(CallConvCdecl)])]
    public static int JoinCancel(nint join)
    {
        try
        {
            Call.Enter();
            Handles.Get<NativeJoin>(join).Cancel();
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_join_get_report", CallConvs = [typeof(CallConvCdecl)])]
    public static int JoinGetReport(nint join, CeJoinReport* report)
    {
        try
        {
            Call.Enter();
            NativeJoin found = Handles.Get<NativeJoin>(join);
            JoinReport made = found.Report;
            Call.Give(new CeJoinReport
            {
                Bytes = (ulong)made.Bytes,
                Tensors = (ulong)made.Tensors,
                Seconds = made.Seconds,
                MetasSeconds = found.MetasSeconds,
                PlanSeconds = made.Phases.Plan,
                AllocateSeconds = made.Phases.Allocate,
                TransferSeconds = made.Phases.Transfer,
                VerifySeconds = made.Phases.Verify,
                WriteSeconds = made.Phases.Write,
                UnverifiedReason = Reason(made.UnverifiedReason),
                Verified = made.Verified ? 1U : 0,
                Buckets = (uint)made.Buckets,
                AttachedBytes = (ulong)made.AttachedBytes,
                ReusedBytes = (ulong)made.ReusedBytes,
                RetriedBytes = (ulong)made.RetriedBytes,
                RelayedBytes = (ulong)made.RelayedBytes,
            }, report, "ce_join_report", FirstJoinReportBytes);
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_join_warnings", CallConvs = [typeof(CallConvCdecl)])]
    public static int JoinWarnings(nint join, byte* buffer, nuint* size)
    {
        try
        {
            Call.Enter();
            return Call.Give(string.Join('\n', Handles.Get<NativeJoin>(join).Warnings.Select(line => line.ReplaceLineEndings(" "))), buffer, size);
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_join_planes", CallConvs = [typeof(CallConvCdecl)])]
    public static int JoinPlanes(nint join, byte* buffer, nuint* size)
    {
        try
        {
            Call.Enter();
            return Call.Give(string.Join('\n', Handles.Get<NativeJoin>(join).Report.Planes.Select(plane => plane.ToString().ReplaceLineEndings(" "))), buffer, size);
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_join_checkpoint", CallConvs = [typeof(CallConvCdecl)])]
    public static int JoinCheckpoint(nint join, nint* checkpoint)
    {
        try
        {
            Begin(checkpoint, "checkpoint");
            NativeJoin found = Handles.Get<NativeJoin>(join);
            _ = found.Report;
            *checkpoint = found.IsHeld
                ? OpenCheckpoint(found.Server.Server, found.Name)
                : throw new CallException(Status.State, "this join has put its tensors elsewhere: only CE_TO_MEMORY makes a checkpoint");
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_join_destroy", CallConvs = [typeof(CallConvCdecl)])]
    public static int JoinDestroy(nint join)
    {
        try
        {
            Call.Enter();
            if (join == 0)
            {
                return Ok;
            }
            NotInItsCallback(join);
            NativeJoin found = Handles.Remove<NativeJoin>(join);
            found.Cancel();
            found.WaitForEnd();
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    private static NativeJoin NotInItsCallback(nint join)
    {
        NativeJoin found = Handles.Get<NativeJoin>(join);
        return NativeJoin.InCallbackOf != found ? found : throw new CallException(Status.State, "a callback cannot wait for its own join: return first (another number than 0 ends it)");
    }

    // Metas that are there, or URLs that they are fetched from when the join runs.
    private static MetasSource Source(in CeJoinOptions given, ParameterServer server)
    {
        string? url = Call.OptionalText(given.MetasUrl, "metas_url");
        if (url is null == (given.Metas == 0))
        {
            throw new CallException(Status.Argument, "give one of metas_url and metas");
        }
        string[] replicas = Texts(given.ReplicaUrls, given.ReplicaCount, "replica_urls");
        if (url is null)
        {
            return replicas.Length == 0
                ? new MetasSource(Handles.Get<NativeMetas>(given.Metas).Metas)
                : throw new CallException(Status.Argument, "replica_urls go with a metas_url, not with metas");
        }
        return new MetasSource([url, .. replicas], FetchOptions(given.Fetch, server.Options));
    }
}
