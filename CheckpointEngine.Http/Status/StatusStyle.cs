namespace CheckpointEngine.Http.Status;

/// <summary>How the status page looks, in light and in dark.</summary>
internal static class StatusStyle
{
    internal const string Text = """
        :root{--ground:#f6f7f9;--card:#fff;--ink:#1c2430;--soft:#5d6878;--line:#e1e5eb;--accent:#1f6feb;--good:#176f3d;--good-ground:#e2f4e9;--busy:#8a5300;--busy-ground:#fdf0d8;--other-ground:#eceff3}
        @media(prefers-color-scheme:dark){:root{--ground:#11151b;--card:#1a2028;--ink:#e6eaf0;--soft:#97a3b4;--line:#2b333f;--accent:#6ea8ff;--good:#7ddba3;--good-ground:#16342a;--busy:#f0c07a;--busy-ground:#3a2c14;--other-ground:#252d38}}
        *{box-sizing:border-box}
        body{margin:0 auto;max-width:76rem;padding:2rem 1.5rem;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
        h1{margin:0;font-size:1.6rem;letter-spacing:-.01em}
        h1 small{font-size:.9rem;font-weight:500;color:var(--soft)}
        h2{margin:0 0 .75rem;font-size:1.05rem}
        header{display:grid;grid-template-columns:1fr auto;align-items:center;gap:.15rem 1rem;margin-bottom:1.5rem}
        header p{margin:0;color:var(--soft)}
        header .planes{grid-column:2;grid-row:1/3;display:flex;gap:.4rem}
        code{font:.92em ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
        .tag,.state{display:inline-block;padding:.05rem .55rem;border-radius:1rem;background:var(--other-ground);color:var(--soft);font-size:.85rem;font-weight:600}
        .tag{border:1px solid var(--line);background:var(--card);color:var(--accent)}
        .state.held{background:var(--good-ground);color:var(--good)}
        .state.updating,.state.arriving{background:var(--busy-ground);color:var(--busy)}
        section{margin-bottom:1.25rem;padding:1.1rem 1.25rem;background:var(--card);border:1px solid var(--line);border-radius:.7rem}
        .figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:1rem;padding:0;background:none;border:0}
        .figures div{display:flex;flex-direction:column;padding:.9rem 1.1rem;background:var(--card);border:1px solid var(--line);border-radius:.7rem}
        .figures span{color:var(--soft);font-size:.88rem}
        .figures strong{font-size:1.5rem;line-height:1.35;letter-spacing:-.01em}
        .scroll{overflow-x:auto}
        table{width:100%;border-collapse:collapse;white-space:nowrap}
        th{padding:0 .9rem .45rem 0;border-bottom:1px solid var(--line);color:var(--soft);font-size:.82rem;font-weight:600;text-align:left}
        td{padding:.5rem .9rem .5rem 0;border-bottom:1px solid var(--line);vertical-align:top}
        tbody tr:last-child td{border-bottom:0;padding-bottom:0}
        th:last-child,td:last-child{padding-right:0}
        .n{text-align:right}
        .name{min-width:10rem;max-width:24rem;font-weight:600;white-space:normal;overflow-wrap:anywhere}
        .none{margin:0;color:var(--soft)}
        progress{width:8rem;height:.55rem;accent-color:var(--accent);vertical-align:middle}
        .wide progress{width:14rem}
        summary{cursor:pointer}
        ul{margin:.3rem 0 0;padding-left:1.1rem}
        a{color:var(--accent);text-decoration:none}
        a:hover{text-decoration:underline}
        footer{display:flex;justify-content:space-between;gap:1rem;flex-wrap:wrap;color:var(--soft);font-size:.88rem}
        nav{display:flex;gap:1rem}
        """;
}
