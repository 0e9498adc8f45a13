// Serves the checkpoint in args[0] from one server, joins it with another, and prints the tensor args[1] as that one holds it.
using System.Net;
using CheckpointEngine;
using CheckpointEngine.Metas;

await using var holder = new ParameterServer(new ParameterServerOptions { Address = IPAddress.Loopback });
await holder.StartAsync();
await holder.RegisterAsync("small", [args[0]]);

await using var joiner = new ParameterServer(new ParameterServerOptions { Address = IPAddress.Loopback });
using var client = new MetasClient();
JoinReport report = await joiner.JoinAsync(await client.FetchAsync($"{holder.PeerUrl}/small"), new JoinOptions { CheckpointName = "copy", RequireVerify = true });
Console.WriteLine($"verified={report.Verified} {Convert.ToHexString(joiner.FindCheckpoint("copy")!.GetTensorBytes(args[1]))}");
