using Microsoft.AspNetCore.Http;

namespace CheckpointEngine.Http.Requests;

/// <summary>What a request's method asks for.</summary>
internal static class RequestMethods
{
    /// <summary>Whether the answer goes without its body.</summary>
    /// <remarks>
    /// By the very letters, as Kestrel sees it: routes take HEaD for HEAD as well, and an answer that then lacked the body that its length tells of would become an error
    /// of the server's own. Source: RFC 9110, 9.1: methods are case-sensitive.
    /// </remarks>
    internal static bool IsHead(HttpContext context) => string.Equals(context.Request.Method, HttpMethods.Head, StringComparison.Ordinal);
}
