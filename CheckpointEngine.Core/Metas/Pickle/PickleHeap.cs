using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas.Pickle;

/// <summary>The tuples, lists, dicts and objects of one pickle, in two columns outside the managed heap.</summary>
/// <remarks>
/// A container is a chain of runs of items, mostly one: what is appended later starts another run where it does not lie behind the last
/// one. So an item is stored once, when it is taken off the stack, and all of it is bounded by the length of the input.
/// </remarks>
internal struct PickleHeap : IDisposable
{
    private const int NoNode = -1;

    // What CPython writes for metas has 118 bytes a tensor in protocol 4, with 13 items and 3 nodes.
    private const int InputBytesPerItem = 8;
    private const int InputBytesPerNode = 32;

    private NativeColumn<PickleValue> _items;
    private NativeColumn<Node> _nodes;

    // Of a list or dict, and of each of its further runs.
    private struct Node
    {
        internal int Start;    // of the run in the items; of an object: its PickleModel
        internal int Count;    // items in the run, a dict's are key, value, key, value; of an object: the input offset where it was made
        internal int Next;     // the next run; of an object: the node of the dict of its fields, NoNode before its state was set
        internal int Last;     // of a container: the node of its last run
    }

    /// <summary>Makes room for what a pickle of metas of that length needs, so that growing columns do not move.</summary>
    internal void Reserve(int inputBytes)
    {
        _items.Reserve(inputBytes / InputBytesPerItem);
        _nodes.Reserve(inputBytes / InputBytesPerNode);
    }

    internal int NewContainer()
    {
        _nodes.Add(new Node { Next = NoNode, Last = _nodes.Count });
        return _nodes.Count - 1;
    }

    internal int NewObject(PickleModel model, int offset)
    {
        _nodes.Add(new Node { Start = (int)model, Count = offset, Next = NoNode });
        return _nodes.Count - 1;
    }

    internal readonly PickleModel ModelOf(int node) => (PickleModel)_nodes[node].Start;

    internal readonly int OffsetOf(int node) => _nodes[node].Count;

    /// <summary>The dict of an object's fields, negative before its state was set.</summary>
    internal readonly int FieldsOf(int node) => _nodes[node].Next;

    internal readonly void SetFields(int node, int dict) => _nodes[node].Next = dict;

    /// <summary>Keeps the items of a tuple; they are never changed.</summary>
    internal int Add(scoped ReadOnlySpan<PickleValue> items)
    {
        _items.AddRange(items);
        return _items.Count - items.Length;
    }

    internal readonly ReadOnlySpan<PickleValue> Items(PickleValue tuple) => _items.Span.Slice(tuple.Start, tuple.Length);

    internal void Append(int container, scoped ReadOnlySpan<PickleValue> items)
    {
        if (items.IsEmpty)
        {
            return;
        }
        int last = _nodes[container].Last;
        ref Node run = ref _nodes[last];
        if (run.Count == 0)
        {
            run.Start = _items.Count;
        }
        else if (run.Start + run.Count != _items.Count)
        {
            _nodes.Add(new Node { Start = _items.Count, Next = NoNode });    // may move the nodes
            int added = _nodes.Count - 1;
            _nodes[last].Next = added;
            _nodes[container].Last = added;
            last = added;
        }
        _items.AddRange(items);
        _nodes[last].Count += items.Length;
    }

    /// <summary>Walks the runs of a container, from <paramref name="run"/> = the container until it is negative.</summary>
    internal readonly ReadOnlySpan<PickleValue> NextRun(ref int run)
    {
        ref Node node = ref _nodes[run];
        run = node.Next;
        return _items.Span.Slice(node.Start, node.Count);
    }

    public void Dispose()
    {
        _items.Dispose();
        _nodes.Dispose();
    }
}
