using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using CheckpointEngine.Cli.Commands;

namespace CheckpointEngine.Cli.Output;

/// <summary>Prints help: what the command does, examples that can be pasted, then the options by theme.</summary>
/// <remarks>The library's own help lists options in one run; a command with twenty-five of them is no help to a newcomer that way.</remarks>
internal sealed class HelpPrinter : SynchronousCommandLineAction
{
    private const int Width = 110;
    private const int Gap = 2;

    public override bool ClearsParseErrors => true;

    public override int Invoke(ParseResult parseResult)
    {
        TextWriter output = Console.Out;
        if (parseResult.CommandResult.Command is DocumentedCommand command)
        {
            PrintCommand(output, command);
        }
        else
        {
            PrintRoot(output, (RootCommand)parseResult.RootCommandResult.Command);
        }
        return ExitCode.Done;
    }

    private static void PrintRoot(TextWriter output, RootCommand root)
    {
        output.WriteLine(root.Description);
        output.WriteLine();
        output.WriteLine("Usage:");
        output.WriteLine("  checkpoint-engine COMMAND [options]");
        output.WriteLine();
        output.WriteLine("Commands:");
        PrintRows(output, [.. root.Subcommands.Select(command => (command.Name, command.Description ?? ""))]);
        PrintExamples(output,
        [
            new("One process holds a model:", "checkpoint-engine serve --checkpoint qwen=/models/Qwen2.5-7B"),
            new("Another one, on this host or (with --listen and --address) any other, reads it into a directory:",
                "checkpoint-engine join --metas-url http://127.0.0.1:19700/v1/metas --to dir:/dev/shm/qwen"),
            new("When something is slow or refused:", "checkpoint-engine doctor"),
        ]);
        output.WriteLine();
        output.WriteLine("Exit status: 0 done, 1 failed (one line on stderr says why), 2 bad usage, 130 or 143 a join that was interrupted.");
        output.WriteLine("Options:");
        PrintRows(output, [("-h, --help", "Show help; 'checkpoint-engine COMMAND --help' for a command"), ("--version", "Show the version")]);
    }

    private static void PrintCommand(TextWriter output, DocumentedCommand command)
    {
        WriteWrapped(output, command.Description ?? "", 0);
        output.WriteLine();
        output.WriteLine("Usage:");
        output.WriteLine($"  checkpoint-engine {command.Name} {command.Usage}");
        PrintExamples(output, command.Examples);
        foreach (OptionGroup group in command.Groups)
        {
            output.WriteLine();
            output.WriteLine(group.Title + ":");
            PrintRows(output, [.. group.Options.Where(option => !option.Hidden).Select(option => (Label(option), option.Description ?? ""))]);
        }
        foreach (string note in command.Notes)
        {
            output.WriteLine();
            WriteWrapped(output, note, 0);
        }
    }

    private static string Label(Option option)
    {
        bool isSwitch = option.ValueType == typeof(bool);
        string names = string.Join(", ", option.Aliases.Where(alias => alias.Length == 2).Append(option.Name));
        return isSwitch ? names : $"{names} {option.HelpName ?? "VALUE"}";
    }

    private static void PrintExamples(TextWriter output, IReadOnlyList<Example> examples)
    {
        if (examples.Count == 0)
        {
            return;
        }
        output.WriteLine();
        output.WriteLine("Examples:");
        foreach (Example example in examples)
        {
            output.WriteLine("  " + example.Says);
            output.WriteLine("    " + example.Line);
        }
    }

    private static void PrintRows(TextWriter output, (string Label, string Text)[] rows)
    {
        const int MaxColumn = 34;
        int column = rows.Where(row => row.Label.Length <= MaxColumn).Select(row => row.Label.Length).DefaultIfEmpty(0).Max();
        foreach ((string label, string text) in rows)
        {
            output.Write("  " + label);
            if (label.Length > column)
            {
                output.WriteLine();
                output.Write(new string(' ', 2 + column));
            }
            else
            {
                output.Write(new string(' ', column - label.Length));
            }
            output.Write(new string(' ', Gap));
            WriteWrapped(output, text, 2 + column + Gap);
        }
    }

    // Writes text that starts at the column and goes on there, line for line.
    private static void WriteWrapped(TextWriter output, string text, int column)
    {
        int at = column;
        foreach (string word in text.Split(' '))
        {
            if (at > column && at + 1 + word.Length > Width)
            {
                output.WriteLine();
                output.Write(new string(' ', column));
                at = column;
            }
            else if (at > column)
            {
                output.Write(' ');
                at++;
            }
            output.Write(word);
            at += word.Length;
        }
        output.WriteLine();
    }
}
