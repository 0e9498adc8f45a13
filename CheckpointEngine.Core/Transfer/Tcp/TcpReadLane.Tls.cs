using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using CheckpointEngine.Access;

namespace CheckpointEngine.Transfer.Tcp;

// TLS between the lane and its socket, where the owner's data port speaks it.
internal sealed unsafe partial class TcpReadLane
{
    private SslStream? _secured;             // null: the socket's bytes are what is meant
    private BlockingSocketStream? _records;  // what it reads and writes

    private void Secure(Socket socket, TlsClientOptions tls)
    {
        _records = new BlockingSocketStream(socket) { Deadline = Environment.TickCount64 + (long)_target.StallTimeout.TotalMilliseconds };
        _secured = new SslStream(_records);
        try
        {
            _secured.AuthenticateAsClient(tls.CreateOptions(_target.TlsHost));
            _records.Deadline = long.MaxValue;
        }
        catch (AuthenticationException failure)
        {
            DropConnection();
            throw new CheckpointEngineException(CheckpointError.Refused,
                $"begin TLS on a lane to {_target.PeerName}: {failure.Message}; check --ca-file, and that its certificate is for '{_target.TlsHost}'", 0, failure);
        }
        catch (IOException failure) when (!_aborted)
        {
            ReadStatus status = _records.Failure;
            DropConnection();
            throw status == ReadStatus.Stalled
                ? new CheckpointEngineException(CheckpointError.Timeout, $"begin TLS on a lane to {_target.PeerName}: it did not answer within {_target.StallTimeout.TotalSeconds:0.#} s")
                : new CheckpointEngineException(CheckpointError.Unreachable,
                    $"begin TLS on a lane to {_target.PeerName}: {failure.Message}; check that the owner still runs, and that it lets your certificate in if it demands one (--cert, --key)", 0, failure);
        }
        catch (IOException)
        {
            throw new ObjectDisposedException(nameof(TcpReadLane));     // aborted: the caller knows
        }
    }

    private void Send(Socket socket, ReadOnlySpan<byte> bytes)
    {
        if (_secured is null)
        {
            socket.Send(bytes);
            return;
        }
        try
        {
            _secured.Write(bytes);
        }
        catch (IOException broken)
        {
            throw broken.InnerException as SocketException ?? new SocketException((int)SocketError.ConnectionReset);     // as without TLS
        }
    }

    // As much as there is, in one piece of the oldest answer: the rest of its status, or of its payload.
    private ReadStatus ReceiveSecured(long limitBytes)
    {
        ref readonly ReadRequest request = ref _inFlight[_oldest];
        Span<byte> destination = _ahead < _statusSize
            ? new Span<byte>(StatusOf(_oldest) + _ahead, _statusSize - (int)_ahead)
            : new Span<byte>((byte*)request.Destination + (_ahead - _statusSize), (int)Math.Min(limitBytes, request.LengthBytes - (_ahead - _statusSize)));
        ReadStatus got = ReceiveSecured(destination, out int received);
        _ahead += received;
        return got;
    }

    private ReadStatus ReceiveSecured(Span<byte> destination, out int received)
    {
        received = 0;
        try
        {
            received = _secured!.Read(destination);
            return received != 0 ? ReadStatus.Done : ReadStatus.Broken;
        }
        catch (IOException)
        {
            return _records!.Failure == ReadStatus.Done ? ReadStatus.Garbled : _records.Failure;      // its own failure is of records that are none of ours
        }
    }
}
