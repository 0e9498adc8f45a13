using CheckpointEngine.Interop;
using Microsoft.Extensions.Logging;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Takes what devices say on their own: a port goes down or comes up, its GIDs change, a device is removed.</summary>
/// <remarks>A thread, asleep until something happens. Source: ibv_get_async_event(3).</remarks>
internal sealed unsafe partial class RdmaEvents : IDisposable
{
    private const string Removed = "the device was removed";
    private readonly RdmaNic[] _nics;
    private readonly ILogger _logger;
    private readonly Action<RdmaNic> _changed;
    private readonly Thread _thread;
    private readonly SafeFileHandle _end;      // readable when the thread is to end

    /// <param name="nics">The devices.</param>
    /// <param name="changed">Told on this thread of a device that became usable, or whose GIDs are others.</param>
    /// <param name="logger">Told of what happens to devices.</param>
    internal RdmaEvents(RdmaNic[] nics, Action<RdmaNic> changed, ILogger logger)
    {
        _nics = nics;
        _changed = changed;
        _logger = logger;
        foreach (RdmaNic nic in nics)
        {
            nic.AddReference();
            int fd = nic.Context->async_fd;
            _ = Libc.fcntl(fd, Libc.F_SETFL, Libc.fcntl(fd, Libc.F_GETFL, 0) | Libc.O_NONBLOCK);
        }
        _end = new SafeFileHandle(Libc.eventfd(0, Libc.EFD_CLOEXEC), ownsHandle: true);
        _thread = new Thread(Run, 128 << 10) { IsBackground = true, Name = "checkpoint-engine rdma" };
        _thread.Start();
    }

    public void Dispose()
    {
        RandomAccess.Write(_end, BitConverter.GetBytes(1L), 0);
        _thread.Join();
        _end.Dispose();
    }

    private void Run()
    {
        int count = _nics.Length;
        Libc.PollFd* descriptors = stackalloc Libc.PollFd[count + 1];
        for (int i = 0; i < count; i++)
        {
            descriptors[i] = new Libc.PollFd { fd = _nics[i].Context->async_fd, events = Libc.POLLIN };
        }
        descriptors[count] = new Libc.PollFd { fd = (int)_end.DangerousGetHandle(), events = Libc.POLLIN };
        while (descriptors[count].revents == 0)
        {
            if (Libc.poll(descriptors, (nuint)count + 1, -1) <= 0)
            {
                continue;       // EINTR
            }
            for (int i = 0; i < count; i++)
            {
                if ((descriptors[i].revents & Libc.POLLIN) != 0)
                {
                    TakeEvents(_nics[i]);
                }
                else if (descriptors[i].revents != 0)
                {
                    descriptors[i].fd = -1;       // it would be ready for ever
                    _nics[i].Failure ??= Removed;
                    LogLost(_nics[i].Name, Removed);
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
            nic.IsFatal |= type == LibIbverbs.IBV_EVENT_DEVICE_FATAL;
            if (type == LibIbverbs.IBV_EVENT_DEVICE_FATAL || (type == LibIbverbs.IBV_EVENT_PORT_ERR && port == nic.Port.Number))
            {
                nic.Failure = words;
                LogLost(nic.Name, words);
            }
            else if (port == nic.Port.Number && type is LibIbverbs.IBV_EVENT_PORT_ACTIVE or LibIbverbs.IBV_EVENT_GID_CHANGE or LibIbverbs.IBV_EVENT_LID_CHANGE)
            {
                Refresh(nic, words);
            }
            else
            {
                LogEvent(nic.Name, words);
            }
        }
    }

    private void Refresh(RdmaNic nic, string words)
    {
        bool worked = nic.Failure is null;
        if (!nic.Refresh())
        {
            LogEvent(nic.Name, words);
            return;
        }
        if (nic.Failure is string failure)
        {
            LogLost(nic.Name, failure);
        }
        else if (worked)
        {
            LogGid(nic.Name, nic.Gid.AddressText);
        }
        else
        {
            LogBack(nic.Name, nic.Gid.AddressText);
        }
        _changed(nic);
    }

    [LoggerMessage(EventId = 2331, Level = LogLevel.Warning, Message = "rdma: device {Device}: {Event}; it carries nothing until it is back")]
    private partial void LogLost(string device, string @event);

    [LoggerMessage(EventId = 2332, Level = LogLevel.Information, Message = "rdma: device {Device} is up, with GID {Gid}")]
    private partial void LogBack(string device, string gid);

    [LoggerMessage(EventId = 2333, Level = LogLevel.Information, Message = "rdma: the GIDs of device {Device} have changed; connections are made under {Gid}")]
    private partial void LogGid(string device, string gid);

    [LoggerMessage(EventId = 2334, Level = LogLevel.Debug, Message = "rdma: device {Device}: {Event}")]
    private partial void LogEvent(string device, string @event);
}
