using System.Net;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Tests;

/// <summary>Connections of this host begin without pacing, and those from elsewhere get the system's congestion control back.</summary>
public sealed class CongestionControlTests
{
    private const int TcpCongestion = 13;

    [Fact]
    public void PreferPlainCongestionControl_OfAListener_IsThatOfItsConnectionsFromTheStart()
    {
        using Socket untouched = SocketTools.Listen(new IPEndPoint(IPAddress.Loopback, 0), 1);
        string usual = NameOf(untouched);
        using Socket listener = SocketTools.Listen(new IPEndPoint(IPAddress.Loopback, 0), 1);
        string given = Encoding.ASCII.GetString(SocketTools.PreferPlainCongestionControl(listener));
        Assert.SkipWhen(given.Length == 0 && usual != "reno", $"this system does not let {usual} be changed and set back");
        using var client = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        client.Connect(listener.LocalEndPoint!);
        using Socket accepted = listener.Accept();
        Assert.Equal("reno", NameOf(accepted));
        Assert.Equal(usual == "reno" ? "" : usual, given);
        Assert.True(SocketTools.SetCongestionControl(accepted, Encoding.ASCII.GetBytes(usual)));
        Assert.Equal(usual, NameOf(accepted));
    }

    [Fact]
    public void SetCongestionControl_Unknown_IsFalse()
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        Assert.False(SocketTools.SetCongestionControl(socket, "none-such"u8));
    }

    private static string NameOf(Socket socket)
    {
        byte[] name = new byte[16];
        int length = socket.GetRawSocketOption((int)ProtocolType.Tcp, TcpCongestion, name);
        return Encoding.ASCII.GetString(name, 0, length).TrimEnd('\0');
    }
}
