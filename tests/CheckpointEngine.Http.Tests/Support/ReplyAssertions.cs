using System.Net;
using System.Text.Json;

namespace CheckpointEngine.Http.Tests.Support;

internal static class ReplyAssertions
{
    internal static async Task<JsonElement> AssertProblemAsync(this HttpResponseMessage reply, HttpStatusCode status, string detailPart = "")
    {
        string body = await reply.Content.ReadAsStringAsync(TestServer.Cancellation);
        Assert.True(status == reply.StatusCode, $"{(int)reply.StatusCode} instead of {(int)status}: {body}");
        Assert.Equal("application/problem+json", reply.Content.Headers.ContentType?.MediaType);
        JsonElement problem = JsonDocument.Parse(body).RootElement;
        Assert.Equal((int)status, problem.GetProperty("status").GetInt32());
        Assert.Contains(detailPart, problem.GetProperty("detail").GetString(), StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", body, StringComparison.Ordinal);
        return problem;
    }

    internal static async Task AssertEmptyOkAsync(this HttpResponseMessage reply)
    {
        string body = await reply.Content.ReadAsStringAsync(TestServer.Cancellation);
        Assert.True(reply.StatusCode == HttpStatusCode.OK, $"{(int)reply.StatusCode}: {body}");
        Assert.Equal("", body);
    }

    internal static Task<byte[]> ReadBytesAsync(this HttpResponseMessage reply) => reply.Content.ReadAsByteArrayAsync(TestServer.Cancellation);
}
