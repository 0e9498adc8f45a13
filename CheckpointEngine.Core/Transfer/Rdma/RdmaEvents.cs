using CheckpointEngine.Interop;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Takes what devices say on their own (a port goes down, a device is removed) and tells the lanes of it.</summary>
/// <remarks>A thread, asleep until something happens. Source: ibv_get_async_event(3).</remarks>
internal sealed unsafe partial class RdmaEvents : IDisposable
{
    private const int LookMilliseconds = 1000;
    private readonly RdmaNic[] _nics;
    private readonly ILogger _logger;
    private readonly Thread _thread;
    private volatile bool _ended;

    internal RdmaEvents(RdmaNic[] nics, ILogger logger)
    {
        _nics = nics;
        _logger = logger;
        foreach (RdmaNic nic in nics)
        {
            nic.AddReference();
            int fd = nic.Context->async_fd;
            _ = Libc.fcntl(fd, Libc.F_SETFL, Libc.fcntl(fd, Libc.F_GETFL, 0) | Libc.O_NONBLOCK);
        }
        _thread = new Thread(Run, 128 << 10) { IsBackground = true, Name = "checkpoint-engine rdma" };
        _thread.Start();
    }

    public void Dispose()
    {
        _ended = true;
        _thread.Join();
    }

    private void Run()
    {
        Libc.PollFd* descriptors = stackalloc Libc.PollFd[_nics.Length];
        while (!_ended)
        {
            for (int i = 0; i < _nics.Length; i++)
            {
                descriptors[i] = new Libc.PollFd { fd = _nics[i].Context->async_fd, events = Libc.POLLIN };
            }
            if (Libc.poll(descriptors, (nuint)_nics.Length, LookMilliseconds) > 0)
            {
                foreach (RdmaNic nic in _nics)
                {
                    TakeEvents(nic);
                }
            }
        }
        Array.ForEach(_nics, nic => nic.Release());
    }

    private void TakeEvents(RdmaNic nic)
    {
        LibIbverbs.IbvAsyncEvent happened;
        while (LibIbverbs.ibv_get_async_event(nic.Context, &happened) == 0)
        {
            int type = happened.event_type;
            string words = VerbsStatus.DescribeEvent(type);
            bool ofPort = VerbsStatus.SubjectOf(type) == VerbsEventSubject.Port;
            int port = ofPort ? happened.element.port_num : 0;
            LibIbverbs.ibv_ack_async_event(&happened);
            if (type == LibIbverbs.IBV_EVENT_DEVICE_FATAL || (type == LibIbverbs.IBV_EVENT_PORT_ERR && port == nic.Port.Number))
            {
                nic.Failure = words;
                LogLost(nic.Name, words);
            }
            else if (type == LibIbverbs.IBV_EVENT_PORT_ACTIVE && port == nic.Port.Number)
            {
                nic.Failure = null;
                LogBack(nic.Name);
            }
            else
            {
                LogEvent(nic.Name, words);
            }
        }
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "rdma: device {Device}: {Event}; it carries nothing until it is back")]
    private partial void LogLost(string device, string @event);

    [LoggerMessage(Level = LogLevel.Information, Message = "rdma: device {Device} is back")]
    private partial void LogBack(string device);

    [LoggerMessage(Level = LogLevel.Debug, Message = "rdma: device {Device}: {Event}")]
    private partial void LogEvent(string device, string @event);
}
