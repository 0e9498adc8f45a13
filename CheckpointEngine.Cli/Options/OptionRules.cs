using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;

namespace CheckpointEngine.Cli.Options;

/// <summary>What several options check alike; a broken rule is a usage error.</summary>
internal static class OptionRules
{
    /// <summary>An option that takes one word out of a few.</summary>
    public static Option<string> Word(string name, string description, params string[] words)
    {
        var option = new Option<string>(name) { Description = description, HelpName = string.Join('|', words), DefaultValueFactory = _ => words[0] };
        return option.AcceptOnlyFromAmong(words);
    }

    /// <summary>An option that may be given several times, one value each.</summary>
    public static Option<string[]> Repeated(string name, string helpName, string description)
        => new(name) { Description = description, HelpName = helpName, Arity = ArgumentArity.ZeroOrMore };

    public static Option<int> Integer(string name, string helpName, string description, int least, int most = int.MaxValue, int standard = 0)
    {
        var option = new Option<int>(name) { Description = description, HelpName = helpName, DefaultValueFactory = _ => standard };
        option.CustomParser = result => int.TryParse(result.Tokens[^1].Value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int value)
            && value >= least && value <= most
                ? value
                : Reject<int>(result, most == int.MaxValue
                    ? $"{name}: '{result.Tokens[^1].Value}' is not a whole number of at least {least}"
                    : $"{name}: '{result.Tokens[^1].Value}' is not a whole number from {least} to {most}");
        return option;
    }

    /// <summary>An option in seconds, fractions allowed; null when it is not given.</summary>
    public static Option<TimeSpan?> Seconds(string name, string description, bool zeroAllowed = false)
    {
        const double Most = 100 * 24 * 3600;   // timers take no more than 49 days; nobody waits that long on purpose
        var option = new Option<TimeSpan?>(name) { Description = description, HelpName = "S" };
        option.CustomParser = result => double.TryParse(result.Tokens[^1].Value, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double seconds)
            && seconds <= Most && (seconds > 0 || (zeroAllowed && seconds == 0))
                ? TimeSpan.FromSeconds(Math.Min(seconds, int.MaxValue / 1000))
                : Reject<TimeSpan?>(result, $"{name}: '{result.Tokens[^1].Value}' is not a number of seconds{(zeroAllowed ? "" : " above 0")}");
        return option;
    }

    /// <summary>Whether the option stands on the command line.</summary>
    public static bool IsGiven(this SymbolResult result, Option option) => result.GetResult(option) is OptionResult { Implicit: false };

    /// <inheritdoc cref="IsGiven(SymbolResult, Option)"/>
    public static bool IsGiven(this ParseResult result, Option option) => result.GetResult(option) is { Implicit: false };

    private static T? Reject<T>(ArgumentResult result, string message)
    {
        result.AddError(message);
        return default;
    }
}
