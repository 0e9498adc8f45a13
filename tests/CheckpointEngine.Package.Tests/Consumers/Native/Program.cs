using System.Runtime.InteropServices;

System.Console.WriteLine(Marshal.PtrToStringUTF8(Library.ce_version()));

internal static partial class Library
{
    [LibraryImport("checkpoint_engine")]
    internal static partial nint ce_version();
}
