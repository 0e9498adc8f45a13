using System.Buffers;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli;

/// <summary>Writes metas as a document.</summary>
internal static class MetasFile
{
    public static ReadOnlyMemory<byte> Encode(CheckpointMetas metas, MetasFormat format)
    {
        var output = new ArrayBufferWriter<byte>();
        MetasDocument.Write(metas, format, output);
        return output.WrittenMemory;
    }

    /// <summary>Writes metas to a file: all of it or nothing, for others may wait for the name to appear.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Io"/>.</exception>
    public static void Write(CheckpointMetas metas, string path, MetasFormat format) => Write(Encode(metas, format).Span, path);

    public static void Write(ReadOnlySpan<byte> content, string path)
    {
        string full = Path.GetFullPath(path);
        try
        {
            // Something that is there and no plain file (/dev/stdout, a pipe) is written to, not replaced.
            if (File.Exists(full) && (File.GetAttributes(full) & FileAttributes.Normal) == 0)
            {
                using FileStream stream = new(full, FileMode.Open, FileAccess.Write);
                stream.Write(content);
                return;
            }
            string partial = $"{full}.{Environment.ProcessId}.partial";
            try
            {
                File.WriteAllBytes(partial, content);
                File.Move(partial, full, overwrite: true);
            }
            catch
            {
                File.Delete(partial);
                throw;
            }
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"write metas to '{path}': {failure.Message}{FreeSpace.Advice(Path.GetDirectoryName(full)!, content.Length)}", 0, failure);
        }
    }
}
