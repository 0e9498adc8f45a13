"""Checkpoints to measure with: Qwen2.5-7B's tensors, and a small one with every awkward shape. Content is random, from a fixed seed."""
import json
import mmap
import os
import random
import struct

HIDDEN, INTERMEDIATE, LAYERS, KEY_VALUE, VOCABULARY = 3584, 18944, 28, 512, 152064
NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "uint8": "U8", "int64": "I64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "bool": "BOOL"}
WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4, "uint8": 1, "int64": 8, "float8_e4m3fn": 1, "float8_e5m2": 1, "bool": 1}


def qwen(fraction=1.0):
    """Qwen2.5-7B, or its first layers: 339 tensors, 14.2 GiB in bfloat16. Source: the model's published configuration."""
    yield "model.embed_tokens.weight", "bfloat16", [max(1, int(VOCABULARY * fraction)), HIDDEN]
    for layer in range(max(1, round(LAYERS * fraction))):
        at = f"model.layers.{layer}."
        for name, width in (("q_proj", HIDDEN), ("k_proj", KEY_VALUE), ("v_proj", KEY_VALUE)):
            yield f"{at}self_attn.{name}.weight", "bfloat16", [width, HIDDEN]
            yield f"{at}self_attn.{name}.bias", "bfloat16", [width]
        yield f"{at}self_attn.o_proj.weight", "bfloat16", [HIDDEN, HIDDEN]
        for name in ("gate_proj", "up_proj"):
            yield f"{at}mlp.{name}.weight", "bfloat16", [INTERMEDIATE, HIDDEN]
        yield f"{at}mlp.down_proj.weight", "bfloat16", [HIDDEN, INTERMEDIATE]
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}{name}.weight", "bfloat16", [HIDDEN]
    yield "model.norm.weight", "bfloat16", [HIDDEN]
    yield "lm_head.weight", "bfloat16", [max(1, int(VOCABULARY * fraction)), HIDDEN]


def awkward():
    """Every dtype that torch has here (float8 from 2.1 on), odd and empty shapes, a scalar."""
    import torch
    for index, dtype in enumerate(name for name in NAMES if hasattr(torch, name)):
        yield f"odd.{dtype}", dtype, [1000 + index, 301]
    yield "empty", "float32", [0, 5]
    yield "scalar", "float32", []
    yield "größe", "uint8", [3, 5]
    for index in range(60):
        yield f"layers.{index}.weight", "float16", [160 + index, 65]


def length(dtype, shape):
    size = WIDTHS[dtype]
    for dimension in shape:
        size *= dimension
    return size


def write(folder, tensors, files=4):
    """Writes safetensors with an index where there are several; returns bytes of data."""
    os.makedirs(folder)
    tensors = list(tensors)
    block = random.Random(1).randbytes(64 << 20)
    share = -(-sum(length(dtype, shape) for _, dtype, shape in tensors) // files)
    groups, used = [[]], 0
    for tensor in tensors:
        if used >= share and len(groups) < files:
            groups.append([])
            used = 0
        groups[-1].append(tensor)
        used += length(tensor[1], tensor[2])
    index, total, seed = {}, 0, 0
    for number, group in enumerate(groups):
        name = f"model-{number + 1:05}-of-{len(groups):05}.safetensors" if len(groups) > 1 else "model.safetensors"
        header, at = {}, 0
        for tensor, dtype, shape in group:
            size = length(dtype, shape)
            header[tensor] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [at, at + size]}
            index[tensor] = name
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(folder, name), "wb", buffering=0) as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor, dtype, shape in group:
                left = length(dtype, shape)
                total += left
                seed += 1
                start = seed * 4099 % (32 << 20)       # so that no two tensors begin alike
                while left:
                    piece = block[start:start + left] if dtype != "bool" else bytes(byte & 1 for byte in block[start:start + left])
                    left -= len(piece)
                    start = 0
                    file.write(piece)
    if len(groups) > 1:
        with open(os.path.join(folder, "model.safetensors.index.json"), "w") as file:
            json.dump({"metadata": {"total_size": total}, "weight_map": index}, file)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({"model_type": "qwen2"}, file)
    return total


def tensors(folder):
    """Name, dtype, shape and bytes of every tensor of a folder."""
    back = {text: name for name, text in NAMES.items()}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            with open(os.path.join(folder, name), "rb") as file:
                memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE)
            size = struct.unpack("<Q", memory[:8])[0]
            for tensor, entry in json.loads(memory[8:8 + size]).items():
                start, end = entry["data_offsets"]
                yield tensor, back[entry["dtype"]], entry["shape"], memoryview(memory)[8 + size + start:8 + size + end]
