using System.Reflection;
using System.Text.RegularExpressions;
using CheckpointEngine.Http.Tests.Support;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Http.Tests.Telemetry;

/// <summary>Every log message has a number of its own that the documentation knows.</summary>
public class LogEventTests
{
    private static readonly (MethodInfo Method, LoggerMessageAttribute Message)[] s_messages =
    [
        .. new[] { typeof(ParameterServer).Assembly, typeof(CheckpointEngineHost).Assembly }.SelectMany(static assembly => assembly.GetTypes())
            .SelectMany(static type => type.GetMethods(BindingFlags.Static | BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly))
            .Select(static method => (method, method.GetCustomAttribute<LoggerMessageAttribute>()!)).Where(static found => found.Item2 is not null),
    ];

    private static readonly string[] s_sources =
    [
        .. ((string[])["CheckpointEngine.Core", "CheckpointEngine.Http", "CheckpointEngine.Cli", "CheckpointEngine.Native"])
            .SelectMany(static project => Directory.GetFiles(Path.Join(Repository.Root, project), "*.cs", SearchOption.AllDirectories)).Where(static file => !file.Contains("/obj/", StringComparison.Ordinal))
            .Select(File.ReadAllText),
    ];

    [Fact]
    public void Messages_TheirNumbers_AreGivenAndUnique()
    {
        Assert.InRange(s_messages.Length, 30, 500);
        Assert.All(s_messages, static found => Assert.True(found.Message.EventId > 0, $"{found.Method.DeclaringType}.{found.Method.Name} has no EventId"));
        Assert.All(s_messages.GroupBy(static found => found.Message.EventId), static group => Assert.True(group.Count() == 1, $"{group.Key} is {string.Join(" and ", group.Select(static found => found.Method.DeclaringType + "." + found.Method.Name))}"));
    }

    [Fact]
    public void Sources_NothingIsLogged_WithoutANumber()
    {
        Assert.InRange(s_sources.Length, 100, 10_000);
        Assert.All(s_sources, static source => Assert.DoesNotMatch(@"\.Log(Trace|Debug|Information|Warning|Error|Critical)\(", source));
    }

    [Fact]
    public void Documentation_OfEvents_HasEachWithItsLevelAndText()
    {
        var documented = Regex.Matches(Repository.Read("docs/operations.md"), @"^\| (\d{4}) \| (\w+) \| `([^`]+)`", RegexOptions.Multiline)
            .ToDictionary(static row => int.Parse(row.Groups[1].Value, System.Globalization.CultureInfo.InvariantCulture), static row => (row.Groups[2].Value, row.Groups[3].Value));
        Assert.Equal(s_messages.Select(static found => found.Message.EventId).Order(), documented.Keys.Order());
        Assert.All(s_messages, found => Assert.Equal((LevelOf(found.Message), found.Message.Message), documented[found.Message.EventId]));

        static string LevelOf(LoggerMessageAttribute message) => message.Level == LogLevel.None ? "varies" : message.Level.ToString().ToLowerInvariant();
    }

    [Fact]
    public void Documentation_OfErrors_HasEachKind()
        => Assert.All(Enum.GetNames<CheckpointError>(), static name => Assert.Matches(@"(?m)^\| `" + name + "` \\|", Repository.Read("docs/operations.md")));

    [Fact]
    public void Documentation_OfStatuses_HasEachThatIsAnswered()
    {
        string[] statuses = [.. s_sources.SelectMany(static source => Regex.Matches(source, @"StatusCodes\.Status(\d{3})").Select(static match => match.Groups[1].Value)).Distinct()];
        Assert.InRange(statuses.Length, 8, 30);
        Assert.All(statuses, static status => Assert.Matches(@"(?m)^\| " + status + " \\|", Repository.Read("docs/operations.md")));
    }

    // What stands between the dots is in some text of the engine's: a message that is put otherwise is found here.
    [Fact]
    public void Documentation_OfJoinsThatFail_QuotesWhatIsSaid()
    {
        string section = Repository.Read("docs/operations.md").Split("### Joins that fail")[1].Split("\n## ")[0];
        string[] quoted = [.. Regex.Matches(section, @"(?m)^\| (\*[^|]+) \|").SelectMany(static row => Regex.Matches(row.Groups[1].Value, @"\*([^*]+)\*")).Select(static text => text.Groups[1].Value)];
        Assert.InRange(quoted.Length, 30, 200);
        Assert.All(quoted.SelectMany(static text => Regex.Split(text, @"…|URL|\bN\b|0x")).Select(static piece => piece.Trim(' ', '\'', ':', ';', '(', ')', ',')).Where(static piece => piece.Length > 2),
            static piece => Assert.True(Array.Exists(s_sources, source => source.Contains(piece, StringComparison.Ordinal)), $"no source says '{piece}'"));
    }
}
