using System.Net;
using System.Text;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>Host and port as a stranger's metas give them: printed and read again they are the same, and fit to be printed.</summary>
internal sealed class EndpointNameTarget : FuzzTarget
{
    internal override string Name => "endpoint-name";

    internal override int MaxInputBytes => 1024;

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Text(
        "[", "]", ":", "::", "::1", "%", "%1", "%lo", "%eth0", "fe80::1", "::ffff:1.2.3.4", "127.0.0.1", "localhost", ":65535", ":65536", ":0", ":+1", ": 1", ".", "-", "_", "/64", "0x7f", "é", "٣", "\u007f", "\n", "\0");

    internal override string Run(byte[] input)
    {
        string text = Encoding.UTF8.GetString(input);
        bool taken = EndpointName.TryParse(text, out EndpointName name);
        EndpointName parsed = EndpointName.Parse(text);    // throws the refusal
        Check(taken && parsed == name, "Parse and TryParse differ");
        Check(name.Port is >= 1 and <= IPEndPoint.MaxPort, $"port {name.Port}");
        Check(name.Host.Length != 0 && name.Host.All(character => character is > ' ' and <= '~' and not ('[' or ']' or '/')), "a host that is not fit to be printed");
        Check(EndpointName.TryParse(name.ToString(), out EndpointName again) && again == name, $"printed as {name}, which is read as {again}");
        return IPAddress.TryParse(name.Host, out IPAddress? address) ? address.AddressFamily.ToString() : "name";
    }
}
