using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Native.Tests.Support;

namespace CheckpointEngine.Native.Tests;

/// <summary>Programs that check themselves, in one process each; a failed check is a line on stderr and exit status 1.</summary>
public sealed class ProgramTests(Programs programs)
{
    public static TheoryData<string> GoldenMetas()
        => [.. Directory.GetFiles(GoldenDirectory).Select(file => Path.GetFileName(file)).Where(name => name.EndsWith(".json", StringComparison.Ordinal) || name.EndsWith(".pkl", StringComparison.Ordinal)).Order(StringComparer.Ordinal)];

    private static string GoldenDirectory => Path.Combine(Repository.Root, "tests/CheckpointEngine.Core.Tests/Data/metas");

    [Fact]
    public async Task EveryDestination_InOneProcess_IsBitForBit()
    {
        using var temp = new TempDirectory();
        (await Child.RunAsync(await programs.CAsync("destinations"), temp["copy"])).Succeeded();
    }

    [Fact]
    public async Task BadInput_OfEveryKind_HasItsDefinedOutcome()
    {
        using var temp = new TempDirectory();
        (await Child.RunAsync(await programs.CAsync("bad_input"), temp.Path)).Succeeded();
    }

    [Fact]
    public async Task Generations_ThatFollowEachOtherAndOwnersThatDie_AreNeverMixedNorLost()
    {
        using var temp = new TempDirectory();
        (await Child.RunAsync(await programs.CAsync("generations"), temp.Path)).Succeeded();
    }

    [Fact]
    public async Task Relays_OfJoinsThatAreStartedTogether_BringTheSameBytes()
    {
        using var temp = new TempDirectory();
        (await Child.RunAsync(await programs.CAsync("relays"), temp.Path)).Succeeded();
    }

    [Fact]
    public async Task SharedPool_ChosenForOneRegistration_IsKeptAndFreedByForce()
    {
        using var temp = new TempDirectory();
        (await Child.RunAsync(await programs.CAsync("pools"), temp.Path)).Succeeded();
    }

    [Theory]
    [InlineData("c")]
    [InlineData("cpp")]
    public async Task Guards_TlsSecretsLimitsAndTheAuditLog_DoWhatTheySay(string language)
    {
        using var temp = new TempDirectory();
        using var authority = new TestCertificates("Test authority");
        using var stranger = new TestCertificates("Another authority");
        File.WriteAllText(temp["ca.pem"], authority.Authority.ExportCertificatePem());
        File.WriteAllText(temp["other-ca.pem"], stranger.Authority.ExportCertificatePem());
        foreach (string name in (string[])["server", "client", "other-server"])
        {
            using X509Certificate2 issued = (name.StartsWith("other", StringComparison.Ordinal) ? stranger : authority).Issue(isClient: name == "client");
            File.WriteAllText(temp[name + ".pem"], issued.ExportCertificatePem());
            File.WriteAllText(temp[name + ".key"], issued.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem());
        }
        (await Child.RunAsync(language == "c" ? await programs.CAsync("guards") : await programs.CppAsync("guards"), temp.Path)).Succeeded();
    }

    [Fact]
    public async Task EightThreads_WithDestroysInBetween_NeverMeetAnythingUndefined() => (await Child.RunAsync(await programs.CAsync("threads"))).Succeeded();

    [Fact]
    public async Task Fork_ChildThatCalls_IsToldSoAndTheParentGoesOn() => (await Child.RunAsync(await programs.CAsync("fork"))).Succeeded();

    [Fact]
    public async Task TwoCopies_InOneProcess_ServeEachOther()
    {
        string program = await programs.CAsync("two_copies");
        using var temp = new TempDirectory();
        File.Copy(Repository.Library, temp["libsecond.so"]);
        (await Child.RunAsync(program, Repository.Library, temp["libsecond.so"])).Succeeded();
    }

    [Theory]
    [MemberData(nameof(GoldenMetas))]
    public async Task Metas_GoldenDocument_IsReadWalkedWrittenAndReadAgain(string name)
    {
        string program = await programs.CAsync("metas");
        string output = (await Child.RunAsync(program, Path.Combine(GoldenDirectory, name))).Succeeded().Output;

        // All forms of one document tell the same.
        Assert.Equal((await Child.RunAsync(program, Path.Combine(GoldenDirectory, name.Split('.')[0] + ".json"))).Succeeded().Output, output);
        string[] lines = output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        if (name.StartsWith("two-ranks.", StringComparison.Ordinal))
        {
            Assert.Contains("owner 0 192.168.1.1:12345", lines);
            Assert.Contains("tensor 0 model.embed_tokens.weight BF16 [151936,3584] 1089077248", lines);
            Assert.Contains("tensor 0 scale F32 [] 4", lines);
            Assert.Contains("tensor 0 モデル.重み I8 [3,0,2] 0", lines);
            Assert.Contains(lines, line => line.StartsWith("owner 5 ", StringComparison.Ordinal));
            Assert.True(lines.Length > 300);
        }
    }

    [Theory]
    [InlineData(17, false)]
    [InlineData(20, false)]
    [InlineData(17, true)]
    public async Task CppLayer_UnderEachStandardLinkedOrNot_OwnsCarriesAndChecks(int standard, bool dlopen)
    {
        using var temp = new TempDirectory();
        (await Child.RunAsync(await programs.CppAsync("layer", standard, dlopen), temp.Path)).Succeeded();
    }

    [Fact]
    public async Task CppLayer_LibraryMissing_SaysSo()
    {
        string program = await programs.CppAsync("layer", 17, dlopen: true);
        using var temp = new TempDirectory();
        Outcome outcome = (await Child.RunAsync(program, new Dictionary<string, string> { ["LD_LIBRARY_PATH"] = temp.Path }, temp.Path)).EndedWith(1);
        Assert.Contains("libcheckpoint_engine.so.0", outcome.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task RawCallback_ThatThrows_EndsTheProcessBySigabrt()
    {
        Outcome outcome = (await Child.RunAsync(await programs.CppAsync("throws"))).EndedWith(Outcome.Aborted);
        Assert.Equal("in the callback\n", outcome.Output);
    }

    [Fact]
    public async Task RawCallback_ThatCatches_GoesOn() => (await Child.RunAsync(await programs.CppAsync("throws"), "caught")).Succeeded();
}
