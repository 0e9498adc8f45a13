using System.Buffers;
using System.Diagnostics;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Tests.Inference;

public sealed class WorkerGroupTests
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);
    private static readonly Task s_never = new TaskCompletionSource().Task;

    [Fact]
    public void Wait_NobodyConnects_IsLateAndSaysWhere()
    {
        NeedZmq();
        using var group = new WorkerGroup(["HOST-0"]);
        group.Post(new byte[] { 1 });
        Assert.Equal(WorkerWait.Late, group.Wait(TimeSpan.FromMilliseconds(50), s_never, CancellationToken.None));
        Assert.True(group.NobodyConnected);
        Assert.Contains(group.Address(0), group.DescribeFailure(), StringComparison.Ordinal);
    }

    [Fact]
    public void Wait_ServerAnswersFirst_SaysSo()
    {
        NeedZmq();
        using var group = new WorkerGroup(["HOST-0"]);
        group.Post(new byte[] { 1 });
        Assert.Equal(WorkerWait.ServerEnded, group.Wait(s_patience, Task.CompletedTask, CancellationToken.None));
    }

    [Fact]
    public void Wait_Cancelled_Throws()
    {
        NeedZmq();
        using var group = new WorkerGroup(["HOST-0"]);
        using var cancel = new CancellationTokenSource(TimeSpan.FromMilliseconds(50));
        group.Post(new byte[] { 1 });
        Assert.ThrowsAny<OperationCanceledException>(() => group.Wait(s_patience, s_never, cancel.Token));
    }

    [Fact]
    public void Wait_WorkerOfAnotherUser_IsNotLetIn()
    {
        NeedZmq();
        uint other = Libc.geteuid() + 1;
        using var group = new WorkerGroup(["HOST-0"], [other]);
        using var worker = new EchoWorker(group.Address(0));
        group.Post(new byte[] { 1 });
        Assert.Equal(WorkerWait.Late, group.Wait(TimeSpan.FromMilliseconds(500), s_never, CancellationToken.None));
        Assert.Equal(0, worker.Answers);
    }

    [Fact]
    public void Addresses_OfTwoGroups_Differ()
    {
        NeedZmq();
        using var first = new WorkerGroup(["HOST-0", "HOST-1"]);
        using var second = new WorkerGroup(["HOST-0", "HOST-1"]);
        Assert.Equal(4, new HashSet<string>([first.Address(0), first.Address(1), second.Address(0), second.Address(1)]).Count);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(8)]
    public void Exchange_WorkersThatAnswerAtOnce_CostsUnderHalfAMillisecondABucket(int workers)
    {
        NeedZmq();
        const int Tensors = 200;
        const int Rounds = 200;
        using var builder = new TensorTableBuilder();
        for (int i = 0; i < Tensors; i++)
        {
            builder.Add(Encoding.UTF8.GetBytes($"model.layers.{i}.self_attn.q_proj.weight"), TensorDtype.BF16, [16, 64], 2048, 0);
        }
        TensorTable table = builder.Build();
        BucketLayout layout = BucketLayout.Make(table, Tensors * 2048, Tensors * 2048);
        using var group = new WorkerGroup([.. Enumerable.Range(0, workers).Select(i => $"HOST-{i}")]);
        EchoWorker[] echoes = [.. Enumerable.Range(0, workers).Select(i => new EchoWorker(group.Address(i)))];
        try
        {
            var message = new ArrayBufferWriter<byte>();
            double best = double.MaxValue;
            for (int batch = 0; batch < 10 && best > 0.25; batch++)     // the best of some: others use this host, too
            {
                long start = Stopwatch.GetTimestamp();
                for (int round = 0; round < Rounds; round++)
                {
                    message.ResetWrittenCount();
                    UpdateMessages.WriteBucket(message, table, layout, 0, 0);
                    group.Post(message.WrittenMemory);
                    Assert.Equal(WorkerWait.Answered, group.Wait(s_patience, s_never, CancellationToken.None));
                }
                best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalMilliseconds / Rounds);
            }
            TestContext.Current.TestOutputHelper?.WriteLine($"{best * 1000:0} us a bucket of {Tensors} tensors with {workers} workers");
            // Of the stand-ins' own threads each costs a switch of its core; the limit is for one worker a core.
            Assert.True(best < 0.5 * Math.Max(1, (double)workers / Environment.ProcessorCount), $"{best:0.000} ms a bucket");
        }
        finally
        {
            Array.ForEach(echoes, static echo => echo.Dispose());
        }
    }

    private static void NeedZmq()
    {
        if (!LibZmq.TryLoad(out string? reason))
        {
            Assert.Skip(reason);
        }
    }

    /// <summary>Answers every message at once that it is done.</summary>
    private sealed unsafe class EchoWorker : IDisposable
    {
        private readonly void* _context = LibZmq.zmq_ctx_new();
        private readonly Thread _thread;
        private volatile bool _stop;
        private int _answers;

        internal EchoWorker(string address)
        {
            _thread = new Thread(() => Run(address)) { IsBackground = true };
            _thread.Start();
        }

        internal int Answers => Volatile.Read(ref _answers);

        public void Dispose()
        {
            _stop = true;
            _thread.Join();
            _ = LibZmq.zmq_ctx_term(_context);
        }

        private void Run(string address)
        {
            void* socket = LibZmq.zmq_socket(_context, LibZmq.ZMQ_REP);
            int limit = 50;
            int linger = 0;
            _ = LibZmq.zmq_setsockopt(socket, LibZmq.ZMQ_RCVTIMEO, &limit, sizeof(int));
            _ = LibZmq.zmq_setsockopt(socket, LibZmq.ZMQ_LINGER, &linger, sizeof(int));
            fixed (byte* name = Encoding.UTF8.GetBytes(address + '\0'))
            {
                _ = LibZmq.zmq_connect(socket, name);
            }
            byte* buffer = stackalloc byte[64];
            while (!_stop)
            {
                if (LibZmq.zmq_recv(socket, buffer, 64, 0) >= 0)
                {
                    Interlocked.Increment(ref _answers);
                    _ = LibZmq.zmq_send(socket, buffer, 0, 0);
                }
            }
            _ = LibZmq.zmq_close(socket);
        }
    }
}
