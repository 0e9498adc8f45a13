using System.Buffers;
using System.Diagnostics;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Inference;

/// <summary>One update through shared buffers: while workers load a bucket the next one is copied beside it, and the one after that as soon as its half is free.</summary>
/// <remarks>Runs on the thread that calls it, which exchanges messages with workers; copies are started by <see cref="BucketFeeder"/> and have threads of their own.</remarks>
internal sealed class UpdatePipeline
{
    private static readonly TimeSpan s_patienceForReason = TimeSpan.FromSeconds(5);

    // The server and its workers are looked at this often while tensors are waited for.
    private const int LookMilliseconds = 20;

    // Old workers go, and the server answers, at once after the only None; one that stays waits for a second.
    private static readonly TimeSpan s_patienceForEnd = TimeSpan.FromSeconds(2);

    private readonly UpdateSource _source;
    private readonly InferenceUpdateOptions _options;
    private readonly InferenceClient _client;
    private readonly IUpdateDevice[] _devices;
    private readonly IReadOnlyList<uint>? _admits;
    private readonly IProgress<InferenceUpdateProgress>? _progress;
    private readonly List<string> _notes = [];
    private readonly double[] _handleSeconds;
    private readonly double[] _loadSeconds;
    private readonly double[] _finishSeconds;
    private BucketLayout _layout = null!;

    internal UpdatePipeline(UpdateSource source, InferenceUpdateOptions options, InferenceClient client, IUpdateDevice[] devices,
        IReadOnlyList<uint>? admits, IProgress<InferenceUpdateProgress>? progress)
    {
        _source = source;
        _options = options;
        _client = client;
        _devices = devices;
        _admits = admits;
        _progress = progress;
        _handleSeconds = new double[devices.Length];
        _loadSeconds = new double[devices.Length];
        _finishSeconds = new double[devices.Length];
    }

    /// <summary>Runs it; whatever happens, workers that are there are told the end and the memory is given back.</summary>
    /// <param name="healthSeconds">For the report.</param>
    /// <param name="opening">Likewise.</param>
    /// <param name="stop">Ends it; from the first bucket on it is given <see cref="InferenceUpdateOptions.UpdateTimeout"/>.</param>
    /// <exception cref="CheckpointEngineException">Which worker or server, and what it says.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    internal InferenceUpdateReport Run(double healthSeconds, OpeningDevices opening, CancellationTokenSource stop)
    {
        CancellationToken cancellationToken = stop.Token;
        long free = long.MaxValue;
        foreach (IUpdateDevice device in _devices)
        {
            free = Math.Min(free, device.FreeBytes);
        }
        long wanted = _options.BucketBytes != 0 ? _options.BucketBytes : _devices[0].DefaultBucketBytes;
        _layout = BucketLayout.Make(_source.Tensors, BucketLayout.ChooseSize(_source.Tensors, wanted, BucketLimits.FromEnvironment(free)), wanted);

        if (_layout.Count != 0)
        {
            _source.Readiness.Wait(0, _layout.TensorCount(0), cancellationToken);
        }
        stop.CancelAfter(_options.UpdateTimeout);
        long start = Stopwatch.GetTimestamp();

        using var workers = new WorkerGroup(Array.ConvertAll(_devices, static device => device.Uuid), _admits);
        var buffers = new List<IUpdateBuffer>();            // each once
        try
        {
            ReadOnlyMemory<byte>[] handles = Allocate(buffers);
            using var feeder = new BucketFeeder(_source, _layout, buffers, cancellationToken);
            using var serverStop = new CancellationTokenSource();      // not cancelled with the update: workers are told first, and the server answers
            Task server = _client.UpdateFromSocketsAsync(workers, serverStop.Token);
            try
            {
                return RunWithServer(workers, handles, buffers, feeder, server, start, healthSeconds, opening, cancellationToken);
            }
            catch (Exception failure)
            {
                // A server whose workers have stopped answers soon, and says best what went wrong.
                workers.Abort(failure is OperationCanceledException ? "the update was cancelled" : failure.Message, server,
                    failure is OperationCanceledException ? s_patienceForEnd : s_patienceForReason);
                Exception? reason = server.IsFaulted ? server.Exception.InnerException : null;
                serverStop.Cancel();
                _ = server.ContinueWith(static ended => _ = ended.Exception, TaskScheduler.Default);
                // A worker that has answered has said it itself.
                if (failure is CheckpointEngineException { Error: not CheckpointError.Refused } known && reason is not null && !ReferenceEquals(reason, failure))
                {
                    throw new CheckpointEngineException(known.Error, $"{known.Message}; {reason.Message}", known.NativeCode, failure);
                }
                throw;
            }
        }
        finally
        {
            foreach (IUpdateBuffer buffer in buffers)
            {
                buffer.Dispose();
            }
        }
    }

    private ReadOnlyMemory<byte>[] Allocate(List<IUpdateBuffer> buffers)
    {
        var handles = new ReadOnlyMemory<byte>[_devices.Length];
        for (int i = 0; i < _devices.Length; i++)
        {
            IUpdateBuffer buffer = _devices[i].AllocateBuffer(_layout.BucketBytes);
            if (!buffers.Contains(buffer))
            {
                buffers.Add(buffer);
            }
            var message = new ArrayBufferWriter<byte>();
            UpdateMessages.WriteHandle(message, buffer);
            handles[i] = message.WrittenMemory;
        }
        if (_source.Readiness.IsAllThere)
        {
            List<(nint, long)> runs = Runs();
            buffers.ForEach(buffer => buffer.Expect(runs));
        }
        return handles;
    }

    // Tensors that follow each other in memory are one.
    private List<(nint Start, long Bytes)> Runs()
    {
        var runs = new List<(nint Start, long Bytes)>();
        for (int tensor = 0; tensor < _source.Tensors.Count; tensor++)
        {
            nint start = _source.AddressOf(tensor);
            long bytes = _source.Tensors.GetByteLength(tensor);
            if (bytes == 0)
            {
                continue;
            }
            if (runs.Count != 0 && runs[^1] is var last && start >= last.Start + (nint)last.Bytes && start - (last.Start + (nint)last.Bytes) < Environment.SystemPageSize)
            {
                runs[^1] = (last.Start, start + (nint)bytes - last.Start);
            }
            else
            {
                runs.Add((start, bytes));
            }
        }
        return runs;
    }

    private InferenceUpdateReport RunWithServer(WorkerGroup workers, ReadOnlyMemory<byte>[] handles, List<IUpdateBuffer> buffers, BucketFeeder feeder, Task server,
        long start, double healthSeconds, OpeningDevices opening, CancellationToken cancellationToken)
    {
        var message = new ArrayBufferWriter<byte>();
        Report(0, "connect");
        workers.PostEach(handles);
        Require(workers, workers.Wait(_options.StepTimeout, server, cancellationToken), server, "map the buffer");
        Add(workers, _handleSeconds);

        var reports = new InferenceBucketReport[_layout.Count];
        long loaded = 0;
        for (int bucket = 0; bucket < _layout.Count; bucket++)
        {
            while (!feeder.WaitBegun(bucket, LookMilliseconds))
            {
                RequireThere(workers, server, $"wait for the tensors of bucket {bucket + 1} of {_layout.Count}", cancellationToken);
            }
            double copySeconds = Synchronize(buffers, bucket & 1);
            Report(loaded, "load");
            message.ResetWrittenCount();
            UpdateMessages.WriteBucket(message, _source.Tensors, _layout, bucket, (bucket & 1) * _layout.BucketBytes);
            workers.Post(message.WrittenMemory);
            Require(workers, workers.Wait(_options.StepTimeout, server, cancellationToken), server, $"load bucket {bucket + 1} of {_layout.Count}");
            feeder.Loaded();
            Add(workers, _loadSeconds);
            loaded += _layout.DataBytes(bucket);
            reports[bucket] = new InferenceBucketReport(_layout.DataBytes(bucket), _layout.TensorCount(bucket), copySeconds, Slowest(workers));
        }
        Report(loaded, "finish");
        while (!feeder.WaitEnded(LookMilliseconds))
        {
            RequireThere(workers, server, "wait for the end of the join", cancellationToken);
        }
        long finish = Stopwatch.GetTimestamp();
        Finish(workers, buffers, server, message, cancellationToken);
        var devices = new InferenceDeviceReport[_devices.Length];
        for (int i = 0; i < devices.Length; i++)
        {
            devices[i] = new InferenceDeviceReport(_devices[i].Uuid, _handleSeconds[i], _loadSeconds[i], _finishSeconds[i]);
        }
        return new InferenceUpdateReport
        {
            Checkpoint = _source.Name,
            Bytes = _source.DataBytes,
            Tensors = _source.Tensors.Count,
            BucketBytes = _layout.BucketBytes,
            Seconds = Stopwatch.GetElapsedTime(start).TotalSeconds,
            HealthSeconds = healthSeconds,
            OpenSeconds = opening.Seconds,
            TotalSeconds = opening.SecondsSinceBegin,
            FinishSeconds = Stopwatch.GetElapsedTime(finish).TotalSeconds,
            Buckets = reports,
            Devices = devices,
            Notes = _notes,
        };
    }

    // Workers of 0.4 answer None twice. Older ones end with the first: their going, or the server's answer, is then the end.
    private void Finish(WorkerGroup workers, List<IUpdateBuffer> buffers, Task server, ArrayBufferWriter<byte> message, CancellationToken cancellationToken)
    {
        message.ResetWrittenCount();
        UpdateMessages.WriteNone(message);
        ReadOnlyMemory<byte> none = message.WrittenMemory;
        workers.Post(none);
        bool endedEarly = RequireClosed(workers, server, cancellationToken);
        Add(workers, _finishSeconds);
        foreach (IUpdateBuffer buffer in buffers)
        {
            buffer.BeginDispose();      // workers have let go of it, and what the server does with the weights may need the memory
        }
        bool isNew = _options.WorkerProtocol == WorkerProtocol.V04;
        if (!endedEarly && (isNew || !WaitFor(server, s_patienceForEnd, cancellationToken)))
        {
            workers.Post(none);
            endedEarly = RequireClosed(workers, server, cancellationToken);
            Add(workers, _finishSeconds);
            if (endedEarly == isNew)
            {
                _notes.Add(isNew
                    ? "the workers ended with the first closing message: their checkpoint-engine is older than 0.4 (--worker-protocol 0.2)"
                    : "the workers wanted a second closing message: their checkpoint-engine is 0.4 or later (--worker-protocol 0.4)");
            }
        }
        WaitFor(server, Timeout.InfiniteTimeSpan, cancellationToken);
        server.GetAwaiter().GetResult();
    }

    // Gives whether workers or server were through before every answer came.
    private bool RequireClosed(WorkerGroup workers, Task server, CancellationToken cancellationToken)
    {
        WorkerWait wait = workers.Wait(_options.StepTimeout, server, cancellationToken);
        if (wait is not (WorkerWait.Gone or WorkerWait.ServerEnded))
        {
            Require(workers, wait, server, "finish");
            return false;
        }
        if (!WaitFor(server, _options.StepTimeout, cancellationToken))
        {
            Require(workers, wait, server, "finish");
        }
        server.GetAwaiter().GetResult();        // it decides: its failure is told as it tells it
        return true;
    }

    private void RequireThere(WorkerGroup workers, Task server, string step, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        Require(workers, workers.Look(server), server, step);
    }

    private void Require(WorkerGroup workers, WorkerWait wait, Task server, string step)
    {
        switch (wait)
        {
            case WorkerWait.Failed:
                ThrowHelper.Throw(CheckpointError.Refused, $"update '{_source.Name}': {step}: {workers.DescribeFailure()}");
                break;
            case WorkerWait.Gone:
                ThrowHelper.Throw(CheckpointError.Unreachable, $"update '{_source.Name}': {step}: {workers.DescribeFailure()}; look at the server's log");
                break;
            case WorkerWait.Late:
                string hint = workers.NobodyConnected
                    ? "; workers must be of the same network namespace, and be told of by the server: check its log"
                    : "; give it more time (--step-timeout), or look at the server's log";
                ThrowHelper.Throw(CheckpointError.Timeout, $"update '{_source.Name}': {step}: {workers.DescribeFailure()} within {_options.StepTimeout.TotalSeconds:0.#} s{hint}");
                break;
            case WorkerWait.ServerEnded:
                server.GetAwaiter().GetResult();
                ThrowHelper.Throw(CheckpointError.ProtocolViolation,
                    $"update '{_source.Name}': {step}: {_client.Name} answered that it is done, and {workers.DescribeFailure()}; check --inference-parallel-size and --engine");
                break;
        }
    }

    // False when its time is up; what it ended with is not looked at.
    private static bool WaitFor(Task task, TimeSpan timeout, CancellationToken cancellationToken)
    {
        bool ended = WaitHandle.WaitAny([((IAsyncResult)task).AsyncWaitHandle, cancellationToken.WaitHandle], timeout) == 0;
        cancellationToken.ThrowIfCancellationRequested();
        return ended;
    }

    private static double Synchronize(List<IUpdateBuffer> buffers, int half)
    {
        double slowest = 0;
        foreach (IUpdateBuffer buffer in buffers)
        {
            slowest = Math.Max(slowest, buffer.Synchronize(half));
        }
        return slowest;
    }

    private static void Add(WorkerGroup workers, double[] seconds)
    {
        for (int worker = 0; worker < seconds.Length; worker++)
        {
            seconds[worker] += workers.IsGone(worker) ? 0 : workers.AnswerSeconds(worker);
        }
    }

    private static double Slowest(WorkerGroup workers)
    {
        double slowest = 0;
        for (int worker = 0; worker < workers.Count; worker++)
        {
            slowest = Math.Max(slowest, workers.AnswerSeconds(worker));
        }
        return slowest;
    }

    private void Report(long bytes, string phase) => _progress?.Report(new InferenceUpdateProgress(bytes, _source.DataBytes, phase));
}
