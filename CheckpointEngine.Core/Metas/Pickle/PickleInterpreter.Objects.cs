using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas.Pickle;

// The opcodes that make objects of what is on the stack.
internal ref partial struct PickleInterpreter
{
    private const int MaxGlobalNameBytes = 128;

    private void PushRange(PickleKind kind, ulong length)
    {
        if (length > (ulong)(_input.Length - _at))
        {
            FailTruncated();
        }
        if (length > PickleValue.MaxRangeLength)
        {
            Fail($"a string of {length:N0} bytes");
        }
        Push(new PickleValue(kind, _at, (int)length));
        _at += (int)length;
    }

    private void PushLong()
    {
        int length = TakeByte();
        if (length > 9)
        {
            Fail($"an integer of {length} bytes; those of metas have at most 9");
        }
        int start = _at;
        ReadOnlySpan<byte> bytes = Take(length);
        if (length > 7)
        {
            Push(new PickleValue(PickleKind.BigInt, start, length));
            return;
        }
        long value = length == 0 ? 0 : (sbyte)bytes[length - 1];
        for (int i = length - 2; i >= 0; i--)
        {
            value = value << 8 | bytes[i];
        }
        Push(new PickleValue(PickleKind.Int, value));
    }

    private void MakeTuple(int count)
    {
        if (count > PickleValue.MaxRangeLength)
        {
            Fail($"a tuple of {count:N0} items");
        }
        int start = count == 0 ? 0 : _heap.Add(Peek(count));
        Drop(count);
        Push(new PickleValue(PickleKind.Tuple, start, count));
    }

    private void AppendItems(int count)
    {
        ReadOnlySpan<PickleValue> items = Peek(count);
        PickleValue list = Peek(count + 1)[0];
        if (list.Kind != PickleKind.List)
        {
            Fail($"to {list.Kind.InWords()}");
        }
        _heap.Append(list.Node, items);
        Drop(count);
    }

    private void SetItems(int count)
    {
        ReadOnlySpan<PickleValue> items = Peek(count);
        PickleValue dict = Peek(count + 1)[0];
        if (dict.Kind != PickleKind.Dict)
        {
            Fail($"of {dict.Kind.InWords()}");
        }
        if (count % 2 != 0)
        {
            Fail("a key without a value");
        }
        int kept = 0;
        for (int i = 0; i < items.Length; i += 2)
        {
            if (items[i].Kind is not (PickleKind.String or PickleKind.Int))
            {
                Fail($"a key that is {items[i].Kind.InWords()}");
            }
            if (IsBookkeeping(items[i], items[i + 1]))
            {
                _heap.Append(dict.Node, items[kept..i]);
                kept = i + 2;
            }
        }
        _heap.Append(dict.Node, items[kept..]);
        Drop(count);
    }

    // pydantic's own entries in a model's state, versions 1 and 2; they say nothing about the metas and are three quarters of the entries.
    private readonly bool IsBookkeeping(PickleValue key, PickleValue value)
        => value.Kind is PickleKind.None or PickleKind.Set && key.Kind == PickleKind.String
            && (Text(key).StartsWith("__pydantic_"u8) || Text(key).SequenceEqual("__fields_set__"u8));

    private void AddItems(int count)
    {
        CheckSetItems(Peek(count));
        PickleValue set = Peek(count + 1)[0];
        if (set.Kind != PickleKind.Set)
        {
            Fail($"to {set.Kind.InWords()}");
        }
        Drop(count);
    }

    private readonly void CheckSetItems(ReadOnlySpan<PickleValue> items)
    {
        foreach (PickleValue item in items)
        {
            if (item.Kind != PickleKind.String)
            {
                Fail($"a set that holds {item.Kind.InWords()}");
            }
        }
    }

    private void PushGlobal()
    {
        int module = _at;
        int moduleLength = TakeLine();
        int name = _at;
        int nameLength = TakeLine();
        Push(Find(_input.Slice(module, moduleLength), name, nameLength));
    }

    private int TakeLine()
    {
        ReadOnlySpan<byte> rest = _input[_at..];
        int length = rest[..Math.Min(rest.Length, MaxGlobalNameBytes + 1)].IndexOf((byte)'\n');
        if (length < 0)
        {
            if (rest.Length <= MaxGlobalNameBytes)
            {
                FailTruncated();
            }
            Fail($"refuses global {MessageText.Quote(rest[..MaxGlobalNameBytes])}…");
        }
        _at += length + 1;
        return length;
    }

    private void PushStackGlobal()
    {
        PickleValue name = Pop();
        PickleValue module = Pop();
        if (name.Kind != PickleKind.String || module.Kind != PickleKind.String)
        {
            Fail($"of {module.Kind.InWords()} and {name.Kind.InWords()}");
        }
        Push(Find(Text(module), name.Start, name.Length));
    }

    private readonly PickleValue Find(ReadOnlySpan<byte> module, int nameStart, int nameLength)
    {
        ReadOnlySpan<byte> name = _input.Slice(nameStart, nameLength);
        if (!PickleGlobals.TryFind(module, name, out PickleValue found))
        {
            Fail($"refuses global {MessageText.Quote(module)} {MessageText.Quote(name)}");
        }
        return found.Kind == PickleKind.OtherDtype ? new PickleValue(PickleKind.OtherDtype, nameStart, nameLength) : found;
    }

    private void MakeObject()
    {
        PickleValue arguments = Pop();
        PickleValue model = Pop();
        if (model.Kind != PickleKind.Model || arguments.Kind != PickleKind.Tuple || arguments.Length != 0)
        {
            string with = arguments.Kind == PickleKind.Tuple ? $"{arguments.Length} arguments" : arguments.Kind.InWords();
            Fail($"refuses NEWOBJ of {model.Kind.InWords()} with {with}");
        }
        Push(new PickleValue(PickleKind.Object, _heap.NewObject((PickleModel)model.Number, _opcodeAt)));
    }

    private void Reduce()
    {
        PickleValue arguments = Pop();
        PickleValue callable = Pop();
        PickleValue argument = arguments.Kind == PickleKind.Tuple && arguments.Length == 1 ? _heap.Items(arguments)[0] : default;
        if (callable.Kind == PickleKind.SizeClass && argument.Kind == PickleKind.Tuple)
        {
            Push(new PickleValue(PickleKind.Size, argument.Start, argument.Length));
        }
        else if (callable.Kind == PickleKind.SetClass && argument.Kind == PickleKind.List)
        {
            // One run, as a list made for this one use has; and few items, for a list may be used again and again.
            int run = argument.Node;
            ReadOnlySpan<PickleValue> items = _heap.NextRun(ref run);
            if (run >= 0 || items.Length > MaxFields)
            {
                Fail("refuses REDUCE of set over so long a list");
            }
            CheckSetItems(items);
            Push(new PickleValue(PickleKind.Set));
        }
        else
        {
            Fail($"refuses REDUCE of {callable.Kind.InWords()} over {argument.Kind.InWords()}");
        }
    }

    // The state is a dict; its entry __dict__ holds the fields, both in pydantic 1 and 2. Python's own default is a dict of the fields.
    private void Build()
    {
        PickleValue state = Pop();
        PickleValue target = Top();
        if (state.Kind != PickleKind.Dict || target.Kind != PickleKind.Object)
        {
            Fail($"refuses BUILD of {target.Kind.InWords()} with {state.Kind.InWords()}");
        }
        if (_heap.FieldsOf(target.Node) >= 0)
        {
            Fail("refuses BUILD of one object twice");
        }
        int fields = state.Node;
        int entries = 0;
        for (int run = state.Node; run >= 0;)
        {
            ReadOnlySpan<PickleValue> items = _heap.NextRun(ref run);
            for (int i = 0; i < items.Length; i += 2)
            {
                if (++entries > MaxFields)
                {
                    Fail($"a state of more than {MaxFields} entries");
                }
                if (items[i].Kind == PickleKind.String && Text(items[i]).SequenceEqual("__dict__"u8))
                {
                    if (items[i + 1].Kind != PickleKind.Dict)
                    {
                        Fail($"__dict__ is {items[i + 1].Kind.InWords()}");
                    }
                    fields = items[i + 1].Node;
                }
            }
        }
        _heap.SetFields(target.Node, fields);
    }

    private void PopOrTakeMark()
    {
        if (_stack.Count == _fence && _fences.Count != 0)
        {
            _ = TakeMark();
        }
        else
        {
            _ = Pop();
        }
    }

    private readonly ReadOnlySpan<byte> Text(PickleValue value) => value.TextIn(_input);
}
