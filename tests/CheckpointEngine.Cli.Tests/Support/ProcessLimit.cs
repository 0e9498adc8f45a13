namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>Limits of a process of its own, as a shell sets them.</summary>
internal static class ProcessLimit
{
    /// <summary>The words that run a command within <paramref name="limit"/>, as <c>ulimit -f 2048</c>.</summary>
    /// <remarks>A command that is compiled as it runs puts its code into a file in memory of 2 GiB, unless it is told not to.</remarks>
    public static string[] Within(string limit) => ["env", "DOTNET_EnableWriteXorExecute=0", "sh", "-c", $"{limit} && exec \"$@\"", "sh"];
}
