using System.Formats.Tar;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Http.Contracts;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Requests;
using CommunityToolkit.HighPerformance;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace CheckpointEngine.Http.Endpoints;

/// <summary>Registering, unregistering, and the files beside the weights.</summary>
internal sealed class CheckpointEndpoints(ICheckpointStore store, AllowedPaths allowedPaths)
{
    private static readonly string[] s_get = [HttpMethods.Get, HttpMethods.Head];
    private static readonly string[] s_post = [HttpMethods.Post];
    private static readonly string[] s_delete = [HttpMethods.Delete];

    internal void Map(IEndpointRouteBuilder endpoints, EndpointGuard guard)
    {
        endpoints.MapMethods("/v1/checkpoints/{name}/files", s_post, guard.Protect(RegisterAsync));
        endpoints.MapMethods("/v1/checkpoints/{name}", s_delete, guard.Protect(UnregisterAsync));
        endpoints.MapMethods("/v1/checkpoints/{name}/side-files", s_get, guard.Protect(GetSideFilesAsync));
    }

    private async Task RegisterAsync(HttpContext context)
    {
        string name = CheckpointNames.FromPath(context, segmentsBehind: 1);
        RegisterFilesRequest request = await ReadFilesAsync(context).ConfigureAwait(false);
        string[] paths = [.. request.Files.Select(allowedPaths.Resolve)];
        if (paths.Length == 0)
        {
            throw new HttpProblemException(StatusCodes.Status400BadRequest, "\"files\" is empty; name the safetensors files, their index or their directory");
        }
        try
        {
            await store.RegisterAsync(name, paths, new RegistrationOptions { SharedPool = request.UseSharedMemoryPool, Replace = request.Replace }, context.RequestAborted).ConfigureAwait(false);
        }
        catch (CheckpointEngineException bad) when (bad.Error is CheckpointError.NotFound or CheckpointError.InvalidData or CheckpointError.WrongShape)
        {
            // It is the files that were named which are missing or no safetensors files: the asker's to mend.
            throw new HttpProblemException(StatusCodes.Status400BadRequest, bad.Message, bad);
        }
        context.Response.ContentLength = 0;
    }

    private async Task UnregisterAsync(HttpContext context)
    {
        bool force = context.Request.Query["force"].ToString() switch
        {
            "" or "false" => false,
            "true" => true,
            string other => throw new HttpProblemException(StatusCodes.Status400BadRequest, $"force={other}: true, which frees the memory of the shared pool, or false"),
        };
        await store.UnregisterAsync(CheckpointNames.FromPath(context, segmentsBehind: 0), force).ConfigureAwait(false);
        context.Response.ContentLength = 0;
    }

    private async Task GetSideFilesAsync(HttpContext context)
    {
        string name = CheckpointNames.FromPath(context, segmentsBehind: 1);
        IReadOnlyList<SideFile> files = store.FindSideFiles(name)
            ?? throw new HttpProblemException(StatusCodes.Status404NotFound, $"no checkpoint '{name}' is held here");
        context.Response.ContentType = "application/x-tar";
        if (RequestMethods.IsHead(context))
        {
            return;
        }
        var tar = new TarWriter(context.Response.Body, TarEntryFormat.Pax, leaveOpen: true);
        await using (tar.ConfigureAwait(false))
        {
            foreach ((string fileName, ReadOnlyMemory<byte> content) in files)
            {
                using Stream data = content.AsStream();
                var entry = new PaxTarEntry(TarEntryType.RegularFile, fileName)
                {
                    DataStream = data,
                    Mode = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead | UnixFileMode.OtherRead,
                    ModificationTime = DateTimeOffset.UnixEpoch,    // what is sent depends on the files alone
                };
                await tar.WriteEntryAsync(entry, context.RequestAborted).ConfigureAwait(false);
            }
        }
    }

    private static Task<RegisterFilesRequest> ReadFilesAsync(HttpContext context)
        => RequestBody.ReadJsonAsync(context, HttpJsonContext.Default.RegisterFilesRequest, static request => !request.Files.Contains(null), "{\"files\":[\"/absolute/path\", …]}");
}
