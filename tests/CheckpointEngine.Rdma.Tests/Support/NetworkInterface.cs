namespace CheckpointEngine.Rdma.Tests.Support;

/// <summary>Changes the network interface of a device, and puts it back as it was.</summary>
internal sealed class NetworkInterface : IDisposable
{
    private readonly string _name;
    private readonly string _own;
    private bool _isDown;
    private string? _other;

    public NetworkInterface(int device)
    {
        _name = $"net{device}";
        _own = RdmaLab.Address(device) + "/24";
    }

    public NetworkInterface Down()
    {
        _isDown = true;
        Ip("link", "set", _name, "down");
        return this;
    }

    public void Up()
    {
        Ip("link", "set", _name, "up");
        _isDown = false;
    }

    /// <summary>Takes its address away and gives it another one.</summary>
    public void Readdress(string address)
    {
        Ip("addr", "del", _own, "dev", _name);
        Ip("addr", "add", _other = address + "/24", "dev", _name);
    }

    public void Dispose()
    {
        if (_isDown)
        {
            Up();
        }
        if (_other is not null)
        {
            Ip("addr", "del", _other, "dev", _name);
            Ip("addr", "add", _own, "dev", _name);
        }
    }

    private static void Ip(params string[] arguments) => ChildProcess.RunAsync("ip", arguments).GetAwaiter().GetResult().Succeeded();
}
