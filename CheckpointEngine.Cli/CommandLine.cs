using System.CommandLine;
using System.CommandLine.Help;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Cli.Output;

namespace CheckpointEngine.Cli;

/// <summary>From arguments to an exit status: parses, runs the chosen command, turns every failure into one line on stderr.</summary>
internal static class CommandLine
{
    // No response files: "@name" is a value like any other. No bundling: there are no one-letter switches to bundle.
    private static readonly ParserConfiguration s_parser = new() { EnablePosixBundling = false, ResponseFileTokenReplacer = null };

    // Commands handle signals and failures themselves: a holder drains, a join cleans up, and neither within the library's two seconds.
    private static readonly InvocationConfiguration s_invocation = new() { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null };

    public static async Task<int> RunAsync(string[] args)
    {
        ParseResult parsed = BuildRoot().Parse(args, s_parser);
        if (parsed.Errors.Count != 0 && parsed.Action is not HelpPrinter)
        {
            return PrintUsageErrors(parsed);
        }
        try
        {
            return await parsed.InvokeAsync(s_invocation).ConfigureAwait(false);
        }
        catch (UsageException mistake)
        {
            Stderr.Error(mistake.Message);
            return ExitCode.Usage;
        }
        catch (Exception failure)
        {
            Stderr.Error(FailureText.Describe(failure));
            if (Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_TRACE") is not (null or "" or "0"))
            {
                Console.Error.WriteLine(failure);
            }
            return ExitCode.Failed;
        }
    }

    /// <summary>The whole command line; tests walk it.</summary>
    internal static RootCommand BuildRoot()
    {
        var root = new RootCommand("Holds model weights in memory and moves them between processes and hosts, one-sidedly and checked.")
        {
            new ServeCommand(),
            new JoinCommand(),
            new UpdateCommand(),
            new MetasCommand(),
            new PlanCommand(),
            new DoctorCommand(),
        };
        foreach (Option option in root.Options)
        {
            switch (option)
            {
                case HelpOption help:
                    help.Description = "Show help; 'checkpoint-engine COMMAND --help' for a command";
                    help.Action = new HelpPrinter();
                    break;
                case VersionOption version:
                    version.Description = "Show the version";
                    break;
            }
        }
        return root;
    }

    private static int PrintUsageErrors(ParseResult parsed)
    {
        // One mistake may be told twice, as the option's and as the command's.
        foreach (string message in parsed.Errors.Select(error => error.Message).Distinct())
        {
            Stderr.Error(message);
        }
        string command = parsed.CommandResult.Command is RootCommand ? "" : parsed.CommandResult.Command.Name + " ";
        Console.Error.WriteLine($"Try 'checkpoint-engine {command}--help'.");
        return ExitCode.Usage;
    }
}
