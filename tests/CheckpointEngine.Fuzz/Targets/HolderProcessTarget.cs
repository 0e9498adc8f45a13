using System.Net;
using System.Net.Sockets;
using System.Numerics;
using CheckpointEngine.Fuzz.Support;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>One port of a whole process: after every conversation it lives and answers after its health, and it does not grow.</summary>
internal abstract class HolderProcessTarget : FuzzTarget
{
    private const int InputsBetweenSizes = 512;

    // An answer that takes longer is one that waits for something.
    private const int AnswerMs = 50;

    private HolderProcess? _holder;
    private int _inputs;

    internal override string? WhyNot => HolderProcess.Command is null ? "there is no artifacts/bin/checkpoint-engine; ./build.sh build makes it" : null;

    internal override TimeSpan ProcessorTime => _holder?.ProcessorTime ?? TimeSpan.Zero;

    internal override string Run(byte[] input)
    {
        _holder ??= new HolderProcess();
        string outcome;
        using (var client = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true, ReceiveTimeout = AnswerMs })
        {
            client.Connect(PortOf(_holder));
            outcome = Converse(client, _holder, input);
        }
        _holder.CheckLives();
        if (++_inputs % InputsBetweenSizes == 0)
        {
            _holder.CheckSize();
        }
        return outcome;
    }

    public override void Dispose()
    {
        _holder?.Dispose();
        base.Dispose();
    }

    private protected abstract IPEndPoint PortOf(HolderProcess holder);

    // What it was taken for.
    private protected virtual string Converse(Socket client, HolderProcess holder, byte[] input) => Classify(Exchange(client, input));

    private protected virtual string Classify(byte[] answer) => $"answers {BitOperations.Log2((uint)answer.Length + 1)}";

    private protected static byte[] Exchange(Socket client, ReadOnlySpan<byte> bytes)
    {
        PeerBytes.Send(client, bytes);
        try
        {
            client.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // The holder has closed already.
        }
        return PeerBytes.ReceiveToEnd(client);
    }
}
