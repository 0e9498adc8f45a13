// Serves the checkpoint in args[0] from an ASP.NET application of its own, joins it over HTTP, and prints the tensor args[1] as the joiner holds it.
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

await using var joiner = new ParameterServer(new ParameterServerOptions { Address = IPAddress.Loopback });
using var client = new MetasClient();
JoinReport report = await joiner.JoinAsync(await client.FetchAsync($"{application.Urls.Single()}/v1/metas"), new JoinOptions { CheckpointName = "copy", RequireVerify = true });
Console.WriteLine($"verified={report.Verified} {Convert.ToHexString(joiner.FindCheckpoint("copy")!.GetTensorBytes(args[1]))}");
