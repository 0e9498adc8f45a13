using System.Net;
using System.Text;
using CheckpointEngine.Fuzz.Support;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>Requests to the HTTP port.</summary>
internal sealed class HttpProcessTarget : HolderProcessTarget
{
    internal override string Name => "process-http";

    internal override string Folder => "http";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json(
        "GET ", "POST ", "HEAD ", "DELETE ", "OPTIONS ", " HTTP/1.1\r\n", " HTTP/1.0\r\n", "\r\n", "\r\n\r\n", "Host: a\r\n", "Content-Length: ", "Transfer-Encoding: chunked\r\n", "Content-Encoding: gzip\r\n", "Content-Encoding: br\r\n",
        "Content-Type: application/json\r\n", "Accept: application/json\r\n", "Accept-Encoding: br, gzip\r\n", "Authorization: Bearer x\r\n", "Authorization: Basic Og==\r\n", "If-None-Match: *\r\n", "Expect: 100-continue\r\n", "Connection: close\r\n",
        "Upgrade: h2c\r\n", "Range: bytes=0-\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "/v1/metas", "/v1/checkpoints/fuzz/metas", "/v1/checkpoints/fuzz", "/load-metas", "/gather-metas", "/side-files", "/files", "/metrics", "/v1/healthz",
        "?wait=0", "?wait=60", "?scope=local", "?checkpoint=fuzz", "?force=true", "%2F", "%00", "%", "..", "//", "0\r\n\r\n", "ffffffffffffffff\r\n");

    private protected override IPEndPoint PortOf(HolderProcess holder) => holder.Http;

    private protected override string Classify(byte[] answer)
    {
        const int StatusLine = 12;      // HTTP/1.1 200
        string status = Encoding.ASCII.GetString(answer.AsSpan(0, Math.Min(answer.Length, StatusLine)));
        Check(!status.EndsWith(" 500", StringComparison.Ordinal), $"an error of the server's own: {Encoding.UTF8.GetString(answer)}");
        return $"{status} {base.Classify(answer)}";
    }
}
