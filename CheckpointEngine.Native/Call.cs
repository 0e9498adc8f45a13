using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Native;

/// <summary>What every exported function begins and ends with: is this process the one that loaded the library, and how is a failure told.</summary>
internal static unsafe class Call
{
    // A page that the kernel clears in a child of fork(2): one read tells.
    private static readonly byte* s_alive = MakeForkPage();

    [ThreadStatic]
    private static string? t_lastError;

    /// <summary>The text of the calling thread's last failure.</summary>
    internal static string LastError => t_lastError ?? "";

    /// <exception cref="CallException">This is a child of fork(2).</exception>
    internal static void Enter()
    {
        if (*s_alive == 0)
        {
            throw new CallException(Status.Forked, "this process is a child of fork(2), and the threads of the library are in its parent: call exec first (Python: start method \"spawn\")");
        }
    }

    /// <summary>Keeps the text and returns the status.</summary>
    internal static int Fail(Exception failure)
    {
        (Status status, string text) = Describe(failure);
        return Fail(status, text);
    }

    internal static int Fail(Status status, string text)
    {
        t_lastError = text;
        return (int)status;
    }

    internal static (Status Status, string Text) Describe(Exception failure) => failure switch
    {
        CheckpointEngineException engine => (Status.Work - (int)engine.Error, engine.Message),
        CallException call => (call.Status, call.Message),
        OperationCanceledException => (Status.Cancelled, "cancelled"),
        ArgumentException argument => (Status.Argument, WithoutParameter(argument)),
        ObjectDisposedException => (Status.Handle, "the object behind this handle was destroyed while it was used"),
        InvalidOperationException state => (Status.State, state.Message),
        OutOfMemoryException memory => (Status.Work - (int)CheckpointError.OutOfMemory, memory.Message),
        _ => (Status.Internal, $"a fault of the library, please report it: {failure}"),
    };

    /// <summary>Reads text of the caller.</summary>
    /// <exception cref="CallException">NULL, or not UTF-8.</exception>
    internal static string Text(byte* text, string what) => OptionalText(text, what) ?? throw new CallException(Status.Argument, $"{what} is NULL");

    /// <inheritdoc cref="Text"/>
    internal static string? OptionalText(byte* text, string what)
    {
        if (text == null)
        {
            return null;
        }
        ReadOnlySpan<byte> utf8 = MemoryMarshal.CreateReadOnlySpanFromNullTerminated(text);
        return System.Text.Unicode.Utf8.IsValid(utf8) ? Encoding.UTF8.GetString(utf8) : throw new CallException(Status.Argument, $"{what} is not UTF-8");
    }

    /// <summary>Gives text to the caller, with NUL, by the rule of size in and size out.</summary>
    internal static int Give(string text, byte* buffer, nuint* size)
    {
        if (size == null || (buffer == null && *size != 0))
        {
            throw new CallException(Status.Argument, "size is NULL, or buffer is NULL and *size is not 0");
        }
        nuint capacity = *size;
        int bytes = Encoding.UTF8.GetByteCount(text);
        *size = (nuint)bytes + 1;
        if (capacity <= (nuint)bytes)
        {
            return Fail(Status.BufferTooSmall, $"the buffer has {capacity} bytes, and {bytes + 1} are needed");
        }
        Encoding.UTF8.GetBytes(text, new Span<byte>(buffer, bytes));
        buffer[bytes] = 0;
        return (int)Status.Ok;
    }

    /// <summary>Reads a struct that the caller has filled, older or newer than ours.</summary>
    /// <param name="options">The struct; may be NULL.</param>
    /// <param name="what">Its name.</param>
    /// <param name="firstBytes">Its size in the first version that had it; 0 when it has not grown since.</param>
    /// <exception cref="CallException">Its struct_size cannot be, or it has members that we do not know and that are not 0.</exception>
    internal static T Options<T>(T* options, string what, int firstBytes = 0)
        where T : unmanaged
    {
        const int LargestBytes = 4096;
        if (options == null)
        {
            return default;
        }
        nuint size = *(nuint*)options;
        if (size < (nuint)(firstBytes == 0 ? sizeof(T) : firstBytes) || size > LargestBytes)
        {
            throw new CallException(Status.Argument, $"{what}.struct_size is {size}, and this library's is {sizeof(T)}: set it to sizeof the struct");
        }
        int known = Math.Min((int)size, sizeof(T));
        if (new ReadOnlySpan<byte>((byte*)options + known, (int)size - known).ContainsAnyExcept((byte)0))
        {
            throw new CallException(Status.Argument, $"{what} has members that this library, {EngineVersion.Text}, does not know, and they are not 0: use the library of your header");
        }
        T read = default;
        Buffer.MemoryCopy(options, &read, sizeof(T), known);
        return read;
    }

    /// <summary>Fills a struct of the caller, whose first member is its size.</summary>
    /// <exception cref="CallException">NULL, or its struct_size cannot be.</exception>
    internal static void Give<T>(T value, T* destination, string what, int firstBytes = 0)
        where T : unmanaged
    {
        nuint size = destination == null ? throw new CallException(Status.Argument, $"{what} is NULL") : *(nuint*)destination;
        if (size < (nuint)(firstBytes == 0 ? sizeof(T) : firstBytes))
        {
            throw new CallException(Status.Argument, $"{what}.struct_size is {size}, and this library's is {sizeof(T)}: set it to sizeof the struct");
        }
        Buffer.MemoryCopy(&value, destination, (long)size, (long)Math.Min(size, (nuint)sizeof(T)));
        *(nuint*)destination = size;
    }

    internal static void NotNull(void* pointer, string what)
    {
        if (pointer == null)
        {
            throw new CallException(Status.Argument, $"{what} is NULL");
        }
    }

    private static string WithoutParameter(ArgumentException failure)
    {
        string suffix = $" (Parameter '{failure.ParamName}')";
        return failure.Message.EndsWith(suffix, StringComparison.Ordinal) ? failure.Message[..^suffix.Length] : failure.Message;
    }

    private static byte* MakeForkPage()
    {
        nuint bytes = (nuint)Environment.SystemPageSize;
        byte* page = (byte*)Libc.mmap(null, bytes, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS, -1, 0);
        if (page == Libc.MAP_FAILED)
        {
            throw new CheckpointEngineException(CheckpointError.OutOfMemory, "a page of memory could not be mapped", Marshal.GetLastPInvokeError());
        }
        _ = Libc.madvise(page, bytes, Libc.MADV_WIPEONFORK);      // Linux 4.14; before, a forked child is not recognised
        *page = 1;
        return page;
    }
}
