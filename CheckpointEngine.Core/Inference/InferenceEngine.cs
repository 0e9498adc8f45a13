namespace CheckpointEngine.Inference;

/// <summary>Which inference server takes the weights, and by which of its ways in.</summary>
public enum InferenceEngine
{
    /// <summary>vLLM with checkpoint-engine's worker extension: <c>POST /collective_rpc</c>, weights through shared memory.</summary>
    Vllm,

    /// <summary>SGLang: <c>POST /update_weights_from_ipc</c>, weights through shared memory.</summary>
    Sglang,

    /// <summary>LMDeploy: <c>POST /update_weights_from_ipc</c>, weights through shared memory.</summary>
    Lmdeploy,

    /// <summary>vLLM reads safetensors: <c>POST /collective_rpc</c> with <c>reload_weights</c>.</summary>
    VllmFiles,

    /// <summary>SGLang reads safetensors: <c>POST /update_weights_from_disk</c>.</summary>
    SglangFiles,
}
