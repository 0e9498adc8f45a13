using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Hosting;
using CheckpointEngine.Http.Replies;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Http.Endpoints;

/// <summary>What stands around every endpoint: who may come in, and how a failure is told.</summary>
internal sealed partial class EndpointGuard(CheckpointEngineHttpOptions options, ILoggerFactory? loggerFactory)
{
    // Both, so that a browser asks its user and a client is told of the header.
    private static readonly string[] s_bothChallenges = ["Bearer", "Basic realm=\"checkpoint-engine: the token is the password\", charset=\"UTF-8\""];

    private readonly ILogger _logger = loggerFactory?.CreateLogger("CheckpointEngine.Http") ?? NullLogger.Instance;
    private readonly AuditLog _audit = new(loggerFactory ?? NullLoggerFactory.Instance);

    /// <summary>Lets authorized requests through to <paramref name="handler"/> and turns its exceptions into problems.</summary>
    /// <param name="handler">What is guarded.</param>
    /// <param name="acceptPassword">Whether the token may also come as the password of whatever user, which a browser asks for; only for what changes nothing.</param>
    internal RequestDelegate Protect(RequestDelegate handler, bool acceptPassword = false) => context => RunAsync(context, handler, acceptPassword);

    private async Task RunAsync(HttpContext context, RequestDelegate handler, bool acceptPassword)
    {
        ConnectionSlot? slot = LimitedConnections.Find(context);
        bool isOfUse = false;
        try
        {
            await WaitForTurnAsync(context, slot).ConfigureAwait(false);
            if (!IsAuthorized(context) && !(acceptPassword && HasPassword(context)))
            {
                context.Response.Headers.WWWAuthenticate = acceptPassword ? s_bothChallenges : "Bearer";
                throw new HttpProblemException(StatusCodes.Status401Unauthorized,
                    "this server demands a token: send 'Authorization: Bearer TOKEN' (--token-file or CHECKPOINT_ENGINE_TOKEN)");
            }
            RefuseForeignPages(context);
            slot?.BeginUse();       // only now: who has no token gives way to others
            isOfUse = true;
            await handler(context).ConfigureAwait(false);
        }
        catch (Exception) when (context.RequestAborted.IsCancellationRequested)
        {
            // The client is gone: whatever its going broke is no error, and nobody would read about it.
        }
        catch (Exception failure)
        {
            (int status, IReadOnlyList<string>? names) = failure switch
            {
                HttpProblemException problem => (problem.Status, problem.Checkpoints),
                BadHttpRequestException bad => (bad.StatusCode, null),
                CheckpointEngineException engine => (GetStatus(engine.Error), null),
                _ => (StatusCodes.Status500InternalServerError, (IReadOnlyList<string>?)null),
            };
            if (status >= StatusCodes.Status500InternalServerError)
            {
                LogFailed(failure, context.Request.Method, context.Request.Path);
            }
            if (status is StatusCodes.Status401Unauthorized or StatusCodes.Status403Forbidden or StatusCodes.Status429TooManyRequests)
            {
                _audit.Refused("http", $"{context.Connection.RemoteIpAddress?.ToString() ?? "unix"}:{context.Connection.RemotePort}", $"{status} {context.Request.Method} {context.Request.Path}");
            }
            await Problems.WriteAsync(context, status, failure.Message, names).ConfigureAwait(false);
        }
        finally
        {
            if (isOfUse)
            {
                slot?.EndUse();
            }
        }
    }

    private static async Task WaitForTurnAsync(HttpContext context, ConnectionSlot? slot)
    {
        if (slot is null)
        {
            return;
        }
        if (slot.TakeRequest() is not TimeSpan wait)
        {
            context.Response.Headers.RetryAfter = "5";
            throw new HttpProblemException(StatusCodes.Status429TooManyRequests, "more requests came from your address than this server allows in a second; ask less often (--max-requests there)");
        }
        if (wait > TimeSpan.Zero)
        {
            await Task.Delay(wait, context.RequestAborted).ConfigureAwait(false);
        }
    }

    // What is left here has to do with the engine; mistakes in what was sent are HttpProblemExceptions already.
    private static int GetStatus(CheckpointError error) => error switch
    {
        CheckpointError.NotFound => StatusCodes.Status404NotFound,
        CheckpointError.AlreadyExists => StatusCodes.Status409Conflict,
        CheckpointError.Busy => StatusCodes.Status503ServiceUnavailable,
        _ => StatusCodes.Status500InternalServerError,
    };

    private bool IsAuthorized(HttpContext context)
    {
        if (options.Token is null || (options.AcceptClientCertificates && context.Connection.ClientCertificate is not null))
        {
            return true;
        }
        const string Scheme = "Bearer ";
        string authorization = context.Request.Headers.Authorization.ToString();
        return authorization.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase)
            && options.Token.Matches(Encoding.UTF8.GetBytes(authorization[Scheme.Length..].Trim()));
    }

    // RFC 7617: user and password in base64; the password is the token.
    private bool HasPassword(HttpContext context)
    {
        const string Scheme = "Basic ";
        string authorization = context.Request.Headers.Authorization.ToString();
        byte[] pair = new byte[authorization.Length];
        return authorization.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase)
            && Convert.TryFromBase64String(authorization[Scheme.Length..].Trim(), pair, out int length)
            && pair.AsSpan(0, length).IndexOf((byte)':') is >= 0 and int colon
            && options.Token!.Matches(pair.AsSpan(colon + 1, length - colon - 1));
    }

    // A page in a browser on this host can post to a loopback address without asking anyone; browsers say so.
    private static void RefuseForeignPages(HttpContext context)
    {
        if (!HttpMethods.IsGet(context.Request.Method) && !HttpMethods.IsHead(context.Request.Method)
            && context.Request.Headers["Sec-Fetch-Site"].ToString() is "cross-site" or "same-site")
        {
            throw new HttpProblemException(StatusCodes.Status403Forbidden, "a page of another site may not change anything here");
        }
    }

    [LoggerMessage(EventId = 4001, Level = LogLevel.Error, Message = "{Method} {Path} failed")]
    private partial void LogFailed(Exception failure, string method, string path);
}
