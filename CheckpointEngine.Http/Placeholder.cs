namespace CheckpointEngine.Http;
internal static class Placeholder { }
