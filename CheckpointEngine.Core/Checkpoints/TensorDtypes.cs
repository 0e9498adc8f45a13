namespace CheckpointEngine.Checkpoints;

/// <summary>Widths and names of <see cref="TensorDtype"/>.</summary>
public static class TensorDtypes
{
    private readonly record struct Row(TensorDtype Dtype, int Bits, string Safetensors, string Torch);

    // Torch is empty where torch has no such type (F6) or counts otherwise (F4: torch counts pairs): those travel as torch.uint8.
    private static readonly Row[] s_rows =
    [
        new(TensorDtype.Unknown, 0, "", ""),
        new(TensorDtype.Bool, 8, "BOOL", "torch.bool"),
        new(TensorDtype.U8, 8, "U8", "torch.uint8"),
        new(TensorDtype.I8, 8, "I8", "torch.int8"),
        new(TensorDtype.U16, 16, "U16", "torch.uint16"),
        new(TensorDtype.I16, 16, "I16", "torch.int16"),
        new(TensorDtype.U32, 32, "U32", "torch.uint32"),
        new(TensorDtype.I32, 32, "I32", "torch.int32"),
        new(TensorDtype.U64, 64, "U64", "torch.uint64"),
        new(TensorDtype.I64, 64, "I64", "torch.int64"),
        new(TensorDtype.F16, 16, "F16", "torch.float16"),
        new(TensorDtype.BF16, 16, "BF16", "torch.bfloat16"),
        new(TensorDtype.F32, 32, "F32", "torch.float32"),
        new(TensorDtype.F64, 64, "F64", "torch.float64"),
        new(TensorDtype.C64, 64, "C64", "torch.complex64"),
        new(TensorDtype.C128, 128, "", "torch.complex128"),
        new(TensorDtype.F8E4M3, 8, "F8_E4M3", "torch.float8_e4m3fn"),
        new(TensorDtype.F8E5M2, 8, "F8_E5M2", "torch.float8_e5m2"),
        new(TensorDtype.F8E4M3Fnuz, 8, "F8_E4M3FNUZ", "torch.float8_e4m3fnuz"),
        new(TensorDtype.F8E5M2Fnuz, 8, "F8_E5M2FNUZ", "torch.float8_e5m2fnuz"),
        new(TensorDtype.F8E8M0, 8, "F8_E8M0", "torch.float8_e8m0fnu"),
        new(TensorDtype.F4, 4, "F4", ""),
        new(TensorDtype.F6E2M3, 6, "F6_E2M3", ""),
        new(TensorDtype.F6E3M2, 6, "F6_E3M2", ""),
    ];

    private static readonly byte[][] s_safetensorsUtf8 = [.. s_rows.Select(row => System.Text.Encoding.UTF8.GetBytes(row.Safetensors))];
    private static readonly byte[][] s_torchUtf8 = [.. s_rows.Select(row => System.Text.Encoding.UTF8.GetBytes(row.Torch))];

    /// <summary>Bits of one element; 0 for <see cref="TensorDtype.Unknown"/>.</summary>
    public static int BitsPerElement(this TensorDtype dtype) => s_rows[(int)dtype].Bits;

    /// <summary>The name in a safetensors header (<c>BF16</c>); empty when the format has no such type.</summary>
    public static string SafetensorsName(this TensorDtype dtype) => s_rows[(int)dtype].Safetensors;

    /// <summary>The name in metas (<c>torch.bfloat16</c>); empty when torch lacks the type or counts its elements otherwise.</summary>
    public static string TorchName(this TensorDtype dtype) => s_rows[(int)dtype].Torch;

    /// <summary>As <see cref="TorchName"/>, UTF-8.</summary>
    public static ReadOnlySpan<byte> TorchNameUtf8(this TensorDtype dtype) => s_torchUtf8[(int)dtype];

    /// <summary>Finds the type that a safetensors header calls <paramref name="name"/>.</summary>
    public static bool TryParseSafetensors(ReadOnlySpan<byte> name, out TensorDtype dtype) => Find(s_safetensorsUtf8, name, out dtype);

    /// <summary>Finds the type that metas call <paramref name="name"/>, <c>torch.</c> included.</summary>
    public static bool TryParseTorch(ReadOnlySpan<byte> name, out TensorDtype dtype) => Find(s_torchUtf8, name, out dtype);

    /// <summary>Bytes of a tensor of this type and shape, or -1 when the shape is negative, overflows 63 bits, or does not fill whole bytes.</summary>
    /// <param name="dtype">Any type but <see cref="TensorDtype.Unknown"/>.</param>
    /// <param name="shape">Dimensions; empty means one element.</param>
    public static long ByteLength(this TensorDtype dtype, ReadOnlySpan<long> shape)
    {
        UInt128 elements = 1;
        bool zero = false;
        foreach (long dimension in shape)
        {
            if (dimension < 0)
            {
                return -1;
            }
            zero |= dimension == 0;
            if (dimension > 1 && elements < (UInt128)long.MaxValue)
            {
                elements *= (UInt128)dimension;
            }
        }
        if (zero)
        {
            return 0;
        }
        if (elements >= (UInt128)long.MaxValue)
        {
            return -1;
        }
        UInt128 bits = elements * (UInt128)dtype.BitsPerElement();
        return ((ulong)bits & 7) != 0 || bits >> 3 > (UInt128)long.MaxValue ? -1 : (long)(bits >> 3);
    }

    private static bool Find(byte[][] names, ReadOnlySpan<byte> name, out TensorDtype dtype)
    {
        for (int i = 1; i < names.Length; i++)
        {
            if (names[i].Length != 0 && name.SequenceEqual(names[i]))
            {
                dtype = (TensorDtype)i;
                return true;
            }
        }
        dtype = TensorDtype.Unknown;
        return false;
    }
}
