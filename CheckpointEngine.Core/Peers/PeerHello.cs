using System.Text.Json.Serialization;

namespace CheckpointEngine.Peers;

/// <summary>The payload of <see cref="PeerMessage.Hello"/>, JSON: unknown members are ignored, so that later versions can say more.</summary>
internal sealed record PeerHello
{
    /// <summary>The version of this conversation.</summary>
    internal const int CurrentProtocol = 1;

    [JsonPropertyName("protocol")]
    public int Protocol { get; init; }

    /// <summary>The sender's engine version.</summary>
    [JsonPropertyName("version")]
    public string Version { get; init; } = "";

    /// <summary>The sender's boot id: two processes with the same one share a host.</summary>
    [JsonPropertyName("host_id")]
    public string HostId { get; init; } = "";

    /// <summary>32 random bytes in hexadecimal.</summary>
    [JsonPropertyName("nonce")]
    public string Nonce { get; init; } = "";

    /// <summary>Whether the sender (a server) wants the token proved.</summary>
    [JsonPropertyName("token_required")]
    public bool TokenRequired { get; init; }

    /// <summary>The digest that the sender (a server) makes: <c>xxh3</c>, <c>sha256</c> or <c>none</c>.</summary>
    [JsonPropertyName("digest")]
    public string Digest { get; init; } = "none";
}

/// <summary>JSON of the peer conversation.</summary>
[JsonSerializable(typeof(PeerHello))]
internal sealed partial class PeerJsonContext : JsonSerializerContext;
