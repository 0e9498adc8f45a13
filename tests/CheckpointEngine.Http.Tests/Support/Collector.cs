using System.Collections.Concurrent;
using System.Text;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;

namespace CheckpointEngine.Http.Tests.Support;

/// <summary>An OpenTelemetry collector that keeps what it is sent, protobuf over HTTP.</summary>
internal sealed class Collector : IAsyncDisposable
{
    private readonly WebApplication _application;

    private Collector(WebApplication application) => _application = application;

    /// <summary>What came: path and body.</summary>
    internal ConcurrentQueue<(string Path, string? ContentType, byte[] Body)> Received { get; } = [];

    internal Uri Uri => new(_application.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.Single());

    internal static async Task<Collector> StartAsync()
    {
        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        builder.WebHost.UseKestrelCore().UseUrls("http://127.0.0.1:0");
        WebApplication application = builder.Build();
        var collector = new Collector(application);
        application.Run(async context =>
        {
            using var body = new MemoryStream();
            await context.Request.Body.CopyToAsync(body, context.RequestAborted);
            collector.Received.Enqueue((context.Request.Path.ToString(), context.Request.ContentType, body.ToArray()));
            context.Response.ContentType = "application/x-protobuf";
        });
        await application.StartAsync(TestServer.Cancellation);
        return collector;
    }

    /// <summary>The texts at a path of field numbers in all messages that came to one place.</summary>
    internal IReadOnlyList<string> TextsAt(string place, params int[] fields)
        => [.. Received.Where(message => message.Path == place).SelectMany(message => Find(message.Body, fields)).Select(static bytes => Encoding.UTF8.GetString(bytes))];

    public async ValueTask DisposeAsync()
    {
        await _application.StopAsync();
        await _application.DisposeAsync();
    }

    // Protobuf's wire format: a key with a field number and a kind, then a number, 8 or 4 bytes, or a length and as many bytes.
    private static List<byte[]> Find(byte[] message, int[] fields)
    {
        if (fields.Length == 0)
        {
            return [message];
        }
        var found = new List<byte[]>();
        int at = 0;
        while (at < message.Length)
        {
            ulong key = ReadNumber(message, ref at);
            switch (key & 7)
            {
                case 0:
                    ReadNumber(message, ref at);
                    break;
                case 1:
                    at += 8;
                    break;
                case 5:
                    at += 4;
                    break;
                case 2:
                    int length = (int)ReadNumber(message, ref at);
                    if ((int)(key >> 3) == fields[0])
                    {
                        found.AddRange(Find(message[at..(at + length)], fields[1..]));
                    }
                    at += length;
                    break;
                default:
                    throw new InvalidDataException($"no protobuf: key {key} at {at}");
            }
        }
        return found;
    }

    private static ulong ReadNumber(byte[] message, ref int at)
    {
        ulong number = 0;
        for (int shift = 0; ; shift += 7)
        {
            byte next = message[at++];
            number |= (ulong)(next & 0x7f) << shift;
            if (next < 0x80)
            {
                return number;
            }
        }
    }
}
