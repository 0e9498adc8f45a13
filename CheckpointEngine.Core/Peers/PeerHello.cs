using System.Text.Json.Serialization;

namespace CheckpointEngine.Peers;

/// <summary>The payload of <see cref="PeerMessage.Hello"/>, JSON: unknown members are ignored, so that later versions can say more.</summary>
/// <remarks>Nobody sets a member later. Not <c>init</c>: generated code gives such a member null, not its default, where it is missing.</remarks>
internal sealed record PeerHello
{
    /// <summary>The version of this conversation.</summary>
    internal const int CurrentProtocol = 1;

    [JsonPropertyName("protocol")]
    public int Protocol { get; set; }

    /// <summary>The sender's engine version.</summary>
    [JsonPropertyName("version")]
    public string Version { get; set; } = "";

    /// <summary>The sender's boot id: two processes with the same one share a host.</summary>
    [JsonPropertyName("host_id")]
    public string HostId { get; set; } = "";

    /// <summary>What tells the sender, a server, from every other: random, and the same at all its addresses.</summary>
    [JsonPropertyName("instance")]
    public string Instance { get; set; } = "";

    /// <summary>32 random bytes in hexadecimal.</summary>
    [JsonPropertyName("nonce")]
    public string Nonce { get; set; } = "";

    /// <summary>Whether the sender (a server) wants the token proved.</summary>
    [JsonPropertyName("token_required")]
    public bool TokenRequired { get; set; }

    /// <summary>The digest that the sender (a server) makes: <c>xxh3</c>, <c>sha256</c> or <c>none</c>.</summary>
    [JsonPropertyName("digest")]
    public string Digest { get; set; } = "none";
}

/// <summary>JSON of the peer conversation; null for a text is malformed.</summary>
[JsonSourceGenerationOptions(RespectNullableAnnotations = true)]
[JsonSerializable(typeof(PeerHello))]
internal sealed partial class PeerJsonContext : JsonSerializerContext;
