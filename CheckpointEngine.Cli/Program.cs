using System.Text;

namespace CheckpointEngine.Cli;

internal static class Program
{
    private static int Main(string[] args)
    {
        // Asked by scripts on every host of a fleet: answered before any parser, console encoding or signal handler is set up.
        if (args is ["--version"])
        {
            using Stream output = Console.OpenStandardOutput();
            output.Write(Encoding.UTF8.GetBytes($"checkpoint-engine {EngineVersion.Text}\n"));
            return ExitCode.Done;
        }
        return CommandLine.RunAsync(args).GetAwaiter().GetResult();
    }
}
