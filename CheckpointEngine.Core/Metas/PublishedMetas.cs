namespace CheckpointEngine.Metas;

/// <summary>Metas as they are told at one moment; the same object as long as nothing changes, so that encoded forms can be kept beside it.</summary>
/// <param name="Metas">The metas.</param>
/// <param name="EntityTag">A strong HTTP entity tag, quotes included; another after every change and every start of the process.</param>
public sealed record PublishedMetas(CheckpointMetas Metas, string EntityTag);
