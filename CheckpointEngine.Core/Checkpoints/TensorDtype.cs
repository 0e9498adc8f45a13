namespace CheckpointEngine.Checkpoints;

/// <summary>The element types of the safetensors format, and those of torch beyond it that a metas document may name.</summary>
/// <remarks>Source: safetensors' format description and its <c>Dtype</c>; torch's <c>torch.dtype</c>.</remarks>
public enum TensorDtype : byte
{
    /// <summary>A type this engine has no name for: moved as bytes, its length taken from the slot it has in its buffer.</summary>
    Unknown = 0,

    /// <summary>One byte, 0 or 1.</summary>
    Bool,

    /// <summary>Unsigned 8-bit integer.</summary>
    U8,

    /// <summary>Signed 8-bit integer.</summary>
    I8,

    /// <summary>Unsigned 16-bit integer.</summary>
    U16,

    /// <summary>Signed 16-bit integer.</summary>
    I16,

    /// <summary>Unsigned 32-bit integer.</summary>
    U32,

    /// <summary>Signed 32-bit integer.</summary>
    I32,

    /// <summary>Unsigned 64-bit integer.</summary>
    U64,

    /// <summary>Signed 64-bit integer.</summary>
    I64,

    /// <summary>IEEE 754 binary16.</summary>
    F16,

    /// <summary>bfloat16.</summary>
    BF16,

    /// <summary>IEEE 754 binary32.</summary>
    F32,

    /// <summary>IEEE 754 binary64.</summary>
    F64,

    /// <summary>Two binary32: real, imaginary.</summary>
    C64,

    /// <summary>Two binary64: real, imaginary; torch has it, safetensors has not.</summary>
    C128,

    /// <summary>8-bit float, 4 exponent and 3 mantissa bits, finite only (OCP E4M3FN).</summary>
    F8E4M3,

    /// <summary>8-bit float, 5 exponent and 2 mantissa bits (OCP E5M2).</summary>
    F8E5M2,

    /// <summary>8-bit float E4M3, no negative zero.</summary>
    F8E4M3Fnuz,

    /// <summary>8-bit float E5M2, no negative zero.</summary>
    F8E5M2Fnuz,

    /// <summary>8-bit exponent-only scale (OCP E8M0).</summary>
    F8E8M0,

    /// <summary>4-bit float E2M1, two to a byte; a tensor's elements fill whole bytes.</summary>
    F4,

    /// <summary>6-bit float E2M3, packed; a tensor's elements fill whole bytes.</summary>
    F6E2M3,

    /// <summary>6-bit float E3M2, packed; a tensor's elements fill whole bytes.</summary>
    F6E3M2,
}
