using System.Security.Cryptography;
using System.Text;

namespace CheckpointEngine.Http.Status;

/// <summary>Writes the status page: HTML of its own, with nothing from elsewhere, and no script.</summary>
internal static class StatusPage
{
    private const int RefreshSeconds = 5;
    private const int MostRows = 200;       // of one table; a page is for people

    /// <summary>Allows the page's own style, known by its digest, and nothing else.</summary>
    internal static string ContentSecurityPolicy { get; } =
        $"default-src 'none'; style-src 'sha256-{Convert.ToBase64String(SHA256.HashData(Encoding.UTF8.GetBytes(StatusStyle.Text)))}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

    internal static string Write(ServerStatus status, TransferRates rates, DateTimeOffset now)
    {
        var counters = new Dictionary<string, long> { ["sent"] = status.SentBytes };
        foreach (ReaderStatus reader in status.Readers)
        {
            counters["reader " + reader.Address] = reader.SentBytes;
        }
        foreach (JoinStatus join in status.Joins)
        {
            counters["join " + join.Checkpoint] = join.Progress.BytesDone;
        }
        Func<string, double?> rateOf = rates.Take(counters);
        var html = new HtmlText();
        html.Add($"<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
        html.Add($"<meta http-equiv=\"refresh\" content=\"{RefreshSeconds}\"><meta name=\"color-scheme\" content=\"light dark\"><title>CheckpointEngine \u00b7 {Title(status)}</title><style>");
        html.AddMarkup(StatusStyle.Text).Add($"</style></head><body>\n");
        WriteHead(html, status, now);
        WriteFigures(html, status, rateOf("sent"));
        WriteCheckpoints(html, status.Checkpoints);
        WriteJoins(html, status.Joins, rateOf, now);
        WriteReaders(html, status.Readers, rateOf);
        html.Add($"<footer><span>Refreshed every {RefreshSeconds} s \u00b7 {now.UtcDateTime:yyyy-MM-dd HH:mm:ss} UTC</span>");
        html.Add($"<nav><a href=\"metrics\">metrics</a> <a href=\"v1/metas\">metas</a></nav></footer>\n</body></html>\n");
        return html.ToString();
    }

    private static string Title(ServerStatus status) => status.P2pStoreAddress.Length == 0 ? $"rank {status.Rank}" : $"rank {status.Rank} at {status.P2pStoreAddress}";

    private static void WriteHead(HtmlText html, ServerStatus status, DateTimeOffset now)
    {
        html.Add($"<header><h1>CheckpointEngine <small>{status.Version}</small></h1><p>rank {status.Rank}");
        if (status.P2pStoreAddress.Length != 0)
        {
            html.Add($" at <code>{status.P2pStoreAddress}</code> \u00b7 peers at <code>{status.PeerUrl}</code>");
        }
        html.Add($" \u00b7 up {Quantity.Time(now - status.Started)}</p><p class=\"planes\">");
        foreach (string plane in status.Planes)
        {
            html.Add($"<span class=\"tag\">{plane}</span>");
        }
        html.Add($"</p></header>\n");
    }

    private static void WriteFigures(HtmlText html, ServerStatus status, double? rate)
    {
        CheckpointStatus[] held = [.. status.Checkpoints.Where(static checkpoint => checkpoint.Generation != 0)];
        html.Add($"<section class=\"figures\">");
        Figure("Held", Quantity.Bytes(held.Sum(static checkpoint => checkpoint.Bytes)), held.Length == 1 ? "1 checkpoint" : $"{held.Length} checkpoints");
        Figure("Sent over TCP", Quantity.Bytes(status.SentBytes), Quantity.Rate(rate));
        Figure("Leases", Quantity.Count(held.Sum(static checkpoint => checkpoint.Leases)), "readers and updates");
        Figure("Conversations", Quantity.Count(status.Conversations), "of the peer service");
        html.Add($"</section>\n");

        void Figure(string what, string value, string beside) => html.Add($"<div><span>{what}</span><strong>{value}</strong><span>{beside}</span></div>");
    }

    private static void WriteCheckpoints(HtmlText html, IReadOnlyList<CheckpointStatus> checkpoints)
    {
        html.Add($"<section><h2>Checkpoints</h2>");
        if (checkpoints.Count == 0)
        {
            html.Add($"<p class=\"none\">None is held or known here.</p></section>\n");
            return;
        }
        html.Add($"<div class=\"scroll\"><table><thead><tr><th>Name<th>State<th class=\"n\">Tensors<th class=\"n\">Size<th class=\"n\">Generation<th>Digests<th class=\"n\">Leases<th>Owners</tr></thead><tbody>\n");
        foreach (CheckpointStatus checkpoint in checkpoints.Take(MostRows))
        {
            html.Add($"<tr><td class=\"name\">{checkpoint.Name}<td><span class=\"state {checkpoint.State}\">{checkpoint.State}</span>");
            html.Add($"{(checkpoint.Kind.Length == 0 ? "" : " " + checkpoint.Kind)}");
            if (checkpoint.Generation == 0)
            {
                html.Add($"<td class=\"n\">\u2013<td class=\"n\">\u2013<td class=\"n\">\u2013<td>\u2013<td class=\"n\">\u2013");
            }
            else
            {
                html.Add($"<td class=\"n\">{Quantity.Count(checkpoint.Tensors)}<td class=\"n\">{Quantity.Bytes(checkpoint.Bytes)}<td class=\"n\">{checkpoint.Generation}<td>");
                WriteDigests(html, checkpoint);
                html.Add($"<td class=\"n\">{Quantity.Count(checkpoint.Leases)}");
            }
            html.Add($"<td>");
            WriteOwners(html, checkpoint.Owners);
            html.Add($"</tr>\n");
        }
        html.Add($"</tbody></table></div>");
        WriteMore(html, checkpoints.Count);
        html.Add($"</section>\n");
    }

    private static void WriteDigests(HtmlText html, CheckpointStatus checkpoint)
    {
        if (checkpoint.DigestsTotal == 0)
        {
            html.Add($"none");
        }
        else if (checkpoint.DigestsDone == checkpoint.DigestsTotal)
        {
            html.Add($"complete");
        }
        else
        {
            html.Add($"<progress max=\"{checkpoint.DigestsTotal}\" value=\"{checkpoint.DigestsDone}\"></progress> {100.0 * checkpoint.DigestsDone / checkpoint.DigestsTotal:0}\u00a0%");
        }
    }

    private static void WriteOwners(HtmlText html, IReadOnlyList<OwnerStatus> owners)
    {
        if (owners.Count == 0)
        {
            html.Add($"\u2013");
        }
        else if (owners.Count == 1)
        {
            html.Add($"rank {owners[0].Rank} at <code>{owners[0].Address}</code>");
        }
        else
        {
            html.Add($"<details><summary>{owners.Count} owners</summary><ul>");
            foreach (OwnerStatus owner in owners.Take(MostRows))
            {
                html.Add($"<li>rank {owner.Rank} at <code>{owner.Address}</code>, {Quantity.Count(owner.Tensors)} tensors");
            }
            html.Add($"</ul></details>");
        }
    }

    private static void WriteJoins(HtmlText html, IReadOnlyList<JoinStatus> joins, Func<string, double?> rateOf, DateTimeOffset now)
    {
        if (joins.Count == 0)
        {
            return;
        }
        html.Add($"<section><h2>Joins under way</h2><div class=\"scroll\"><table><thead><tr><th>Name<th>Phase<th>Progress<th class=\"n\">Bytes<th class=\"n\">Rate<th class=\"n\">Lanes<th class=\"n\">For</tr></thead><tbody>\n");
        foreach (JoinStatus join in joins.Take(MostRows))
        {
            JoinProgress progress = join.Progress;
            html.Add($"<tr><td class=\"name\">{join.Checkpoint}<td>{progress.Phase}<td class=\"wide\"><progress max=\"{Math.Max(1, progress.BytesTotal)}\" value=\"{progress.BytesDone}\"></progress>");
            html.Add($"<td class=\"n\">{Quantity.Bytes(progress.BytesDone)} of {Quantity.Bytes(progress.BytesTotal)}<td class=\"n\">{Quantity.Rate(rateOf("join " + join.Checkpoint))}");
            html.Add($"<td class=\"n\">{progress.Lanes}<td class=\"n\">{Quantity.Time(now - join.Started)}</tr>\n");
        }
        html.Add($"</tbody></table></div>");
        WriteMore(html, joins.Count);
        html.Add($"</section>\n");
    }

    private static void WriteReaders(HtmlText html, IReadOnlyList<ReaderStatus> readers, Func<string, double?> rateOf)
    {
        html.Add($"<section><h2>Readers over TCP</h2>");
        if (readers.Count == 0)
        {
            html.Add($"<p class=\"none\">Nobody reads over TCP at this moment. Local and RDMA reads are one-sided: their readers show as leases alone.</p></section>\n");
            return;
        }
        html.Add($"<div class=\"scroll\"><table><thead><tr><th>Address<th class=\"n\">Connections<th class=\"n\">Sent<th class=\"n\">Rate</tr></thead><tbody>\n");
        foreach (ReaderStatus reader in readers.Take(MostRows))
        {
            html.Add($"<tr><td><code>{reader.Address}</code><td class=\"n\">{reader.Connections}<td class=\"n\">{Quantity.Bytes(reader.SentBytes)}<td class=\"n\">{Quantity.Rate(rateOf("reader " + reader.Address))}</tr>\n");
        }
        html.Add($"</tbody></table></div>");
        WriteMore(html, readers.Count);
        html.Add($"</section>\n");
    }

    private static void WriteMore(HtmlText html, int count)
    {
        if (count > MostRows)
        {
            html.Add($"<p class=\"none\">and {Quantity.Count(count - MostRows)} more</p>");
        }
    }
}
