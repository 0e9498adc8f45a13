using System.Globalization;
using CheckpointEngine.MakeCheckpoint;

// MakeCheckpoint --out DIR --model qwen2.5-7b|deepseek-v3-slice --gib 2 [--shards 4] [--seed 1]
const string Usage = "usage: MakeCheckpoint --out DIR [--model qwen2.5-7b|deepseek-v3-slice] [--gib 2] [--shards 4] [--seed 1]";

string? directory = null;
string model = "qwen2.5-7b";
double gib = 2;
int shards = 4;
ulong seed = 1;
bool valid = args.Length % 2 == 0;
for (int i = 0; valid && i < args.Length; i += 2)
{
    string value = args[i + 1];
    switch (args[i])
    {
        case "--out":
            directory = value;
            break;
        case "--model":
            model = value;
            break;
        case "--gib":
            valid = double.TryParse(value, CultureInfo.InvariantCulture, out gib) && gib is > 0 and < 4096;
            break;
        case "--shards":
            valid = int.TryParse(value, CultureInfo.InvariantCulture, out shards) && shards is > 0 and < 100_000;
            break;
        case "--seed":
            valid = ulong.TryParse(value, CultureInfo.InvariantCulture, out seed);
            break;
        default:
            valid = false;
            break;
    }
}
ModelShape? shape = ModelShape.Find(model);
if (!valid || directory is null || shape is null)
{
    Console.Error.WriteLine(Usage);
    return 2;
}
long bytes = CheckpointMaker.Make(directory, shape, (long)(gib * (1 << 30)), shards, seed, out int tensors);
Console.WriteLine($"{Path.GetFullPath(directory)}  {tensors} tensors  {bytes} bytes  {bytes / (double)(1 << 30):F3} GiB");
return 0;
