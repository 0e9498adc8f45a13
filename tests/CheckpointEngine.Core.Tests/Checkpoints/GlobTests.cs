using System.Diagnostics;
using System.Text;
using CheckpointEngine.Checkpoints;
using CsCheck;

namespace CheckpointEngine.Tests;

public class GlobTests
{
    [Theory]
    [InlineData("*", "", true)]
    [InlineData("", "", true)]
    [InlineData("", "a", false)]
    [InlineData("model.layers.*.mlp.*", "model.layers.12.mlp.experts.3.up_proj.weight", true)]
    [InlineData("*.bias", "a/b.bias", true)]
    [InlineData("*.bias", "a.Bias", false)]
    [InlineData("layers.?.w", "layers.3.w", true)]
    [InlineData("layers.?.w", "layers.33.w", false)]
    [InlineData("layers.?.w", "layers.層.w", true)]
    [InlineData("layers.[0-3].w", "layers.3.w", true)]
    [InlineData("layers.[0-3].w", "layers.4.w", false)]
    [InlineData("layers.[!0-3].w", "layers.4.w", true)]
    [InlineData("layers.[^0-3].w", "layers.2.w", false)]
    [InlineData("[а-я]", "ж", true)]
    [InlineData("[]]", "]", true)]
    [InlineData("[!]]", "]", false)]
    [InlineData("[a-]", "-", true)]
    [InlineData("[*]", "*", true)]
    [InlineData("[*]", "x", false)]
    [InlineData("a[b", "a[b", true)]
    [InlineData("a[]", "a[]", true)]
    [InlineData("**a**", "bab", true)]
    public void IsMatch_Example_IsAsFnmatch(string pattern, string name, bool expected)
        => Assert.Equal(expected, new Glob(pattern).IsMatch(Encoding.UTF8.GetBytes(name)));

    [Fact]
    public void IsMatch_Random_EqualsSimpleReference()
        => Gen.Select(Gen.OneOf("a", "b", "*", "?", "[ab]", "[!a]", "é").Array[0, 8], Gen.OneOf("a", "b", "é", "c").Array[0, 10])
            .Sample((pattern, name) => new Glob(string.Concat(pattern)).IsMatch(Encoding.UTF8.GetBytes(string.Concat(name))) == Reference(pattern, name), iter: 20_000);

    [Fact]
    public void IsMatch_ManyStars_TakesNoExponentialTime()
    {
        var glob = new Glob(string.Concat(Enumerable.Repeat("*a", 200)) + "*b");
        byte[] name = Encoding.UTF8.GetBytes(new string('a', 20_000));
        long start = Stopwatch.GetTimestamp();
        Assert.False(glob.IsMatch(name));
        Assert.True(Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(5));
    }

    [Fact]
    public void IsMatch_NotUtf8_Ends()
    {
        Assert.True(new Glob("a?*").IsMatch([(byte)'a', 0xFF, 0xC3]));
        Assert.False(new Glob("a").IsMatch([0xFF]));
    }

    private static bool Reference(ReadOnlySpan<string> pattern, ReadOnlySpan<string> name)
    {
        if (pattern.IsEmpty)
        {
            return name.IsEmpty;
        }
        if (pattern[0] == "*")
        {
            return Reference(pattern[1..], name) || (!name.IsEmpty && Reference(pattern, name[1..]));
        }
        return !name.IsEmpty && Reference(pattern[1..], name[1..]) && pattern[0] switch
        {
            "?" => true,
            "[ab]" => name[0] is "a" or "b",
            "[!a]" => name[0] != "a",
            string literal => literal == name[0],
        };
    }
}
