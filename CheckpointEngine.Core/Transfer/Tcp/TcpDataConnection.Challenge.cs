using System.Buffers.Binary;
using CheckpointEngine.Internal;
using CheckpointEngine.Access;

namespace CheckpointEngine.Transfer.Tcp;

// Proving the token, once a connection: what Access/TokenChallenge says, on this wire.
internal sealed partial class TcpDataConnection
{
    // 32 bytes of the client's nonce; ours and our proof; its proof; a status. The end of the header says which secret it means, if it says any.
    private async ValueTask<bool> AnswerChallengeAsync(AccessToken token)
    {
        ulong hint = DataHeader.DecodeHint(_received.AsSpan(_receivedStart - DataHeader.Size));
        byte[] clientNonce = new byte[TokenChallenge.NonceBytes];
        byte[] serverNonce = KernelRandom.GetBytes(TokenChallenge.NonceBytes);
        if (!await ReceiveAsync(clientNonce.Length).ConfigureAwait(false))
        {
            return false;
        }
        Take(clientNonce);
        BinaryPrimitives.WriteUInt64LittleEndian(_answer, DataHeader.StatusOk);
        serverNonce.CopyTo(_answer, DataHeader.StatusSize);
        TokenChallenge.Prove(TokenChallenge.Choose(token, hint, clientNonce), TokenChallenge.Purpose.TcpLane, asServer: true, clientNonce, serverNonce, _binding,
            _answer.AsSpan(DataHeader.StatusSize + TokenChallenge.NonceBytes));
        await SendAnswerAsync(_answer.Length).ConfigureAwait(false);
        byte[] proof = new byte[TokenChallenge.ProofBytes];
        if (!await ReceiveAsync(proof.Length).ConfigureAwait(false))
        {
            return false;
        }
        Take(proof);
        _admitted = TokenChallenge.Check(token, TokenChallenge.Purpose.TcpLane, ofServer: false, clientNonce, serverNonce, _binding, proof) is not null;
        await SendStatusAsync(_admitted ? DataHeader.StatusOk : DataHeader.StatusRejected, DataHeader.StatusSize).ConfigureAwait(false);
        if (!_admitted)
        {
            Refusal = "its token is not ours";
            RefusalReason = Telemetry.Refusal.Token;
        }
        return _admitted;
    }

    private void Take(Span<byte> destination)
    {
        _received.AsSpan(_receivedStart, destination.Length).CopyTo(destination);
        _receivedStart += destination.Length;
        StartBusy();
    }
}
