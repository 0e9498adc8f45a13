using System.Diagnostics.Metrics;
using CheckpointEngine.Telemetry;

namespace CheckpointEngine.Tests;

/// <summary>Listens to the engine's meter, and sums what it hears by instrument and tags.</summary>
internal sealed class Instruments : IDisposable
{
    private readonly MeterListener _listener = new();
    private readonly Dictionary<string, double> _sums = [];

    internal Instruments()
    {
        _listener.InstrumentPublished = static (instrument, listener) =>
        {
            if (instrument.Meter == EngineTelemetry.Meter)
            {
                listener.EnableMeasurementEvents(instrument);
            }
        };
        _listener.SetMeasurementEventCallback<long>((instrument, value, tags, _) => Take(instrument, value, tags));
        _listener.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Take(instrument, value, tags));
        _listener.Start();
    }

    /// <summary>What an instrument that shows a state says now, or what one that counts has counted since this was made.</summary>
    /// <param name="name">The instrument, and its tags behind it: <c>name key=value</c>.</param>
    internal double this[string name]
    {
        get
        {
            lock (_sums)
            {
                foreach (string shown in _sums.Keys.Where(static key => key.StartsWith("= ", StringComparison.Ordinal)).ToArray())
                {
                    _sums.Remove(shown);
                }
            }
            _listener.RecordObservableInstruments();
            lock (_sums)
            {
                return _sums.GetValueOrDefault(name) + _sums.GetValueOrDefault("= " + name);
            }
        }
    }

    /// <summary>All that was heard.</summary>
    internal IReadOnlyCollection<string> Names
    {
        get
        {
            lock (_sums)
            {
                return [.. _sums.Keys];
            }
        }
    }

    public void Dispose() => _listener.Dispose();

    private void Take(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        string name = instrument.IsObservable ? "= " + instrument.Name : instrument.Name;
        foreach ((string key, object? word) in tags)
        {
            name += $" {key}={word}";
        }
        lock (_sums)
        {
            _sums[name] = _sums.GetValueOrDefault(name) + value;
        }
    }
}

/// <summary>Tests that count what the whole process does, so that nothing else may do anything meanwhile.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class ListensToProcess
{
    internal const string Name = nameof(ListensToProcess);
}
