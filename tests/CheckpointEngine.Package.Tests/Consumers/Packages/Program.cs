// Serves the checkpoint in args[0] from one server, joins it with two others, over the peer service and over HTTP, and prints the tensor
// args[1] as each of them holds it.
using System.Net;
using CheckpointEngine;
using CheckpointEngine.Http;
using CheckpointEngine.Metas;

await using var holder = new ParameterServer(new ParameterServerOptions { Address = IPAddress.Loopback });
await holder.StartAsync();
await holder.RegisterAsync("small", [args[0]]);

WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
builder.Logging.ClearProviders();
builder.WebHost.UseUrls("http://127.0.0.1:0");
await using WebApplication application = builder.Build();
application.MapCheckpointEngine(holder);
await application.StartAsync();

foreach (string url in new[] { $"{holder.PeerUrl}/small", $"{application.Urls.First()}/v1/metas" })
{
    await using var joiner = new ParameterServer(new ParameterServerOptions { Address = IPAddress.Loopback });
    using var client = new MetasClient();
    JoinReport report = await joiner.JoinAsync(await client.FetchAsync(url), new JoinOptions { CheckpointName = "copy" });
    string bytes = Convert.ToHexString(joiner.FindCheckpoint("copy")!.GetTensorBytes(args[1]));
    Console.WriteLine($"{url[..url.IndexOf(':')]} verified={report.Verified} {bytes}");
}
