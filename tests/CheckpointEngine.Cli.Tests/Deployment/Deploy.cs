using System.Diagnostics;
using System.Xml.Linq;
using CheckpointEngine.Cli.Tests.Support;
using k8s;
using k8s.Models;

namespace CheckpointEngine.Cli.Tests.Deployment;

/// <summary>What lies in deploy/, read by the parsers of those who use it.</summary>
internal static class Deploy
{
    /// <summary>Where it lies.</summary>
    public static string Folder { get; } = Find();

    /// <summary>The version that images are named after.</summary>
    public static string Version { get; } = XDocument.Load(Path.Combine(Folder, "../Directory.Build.props")).Descendants("Version").Single().Value;

    public static string Text(string path) => File.ReadAllText(Path.Combine(Folder, path));

    /// <summary>The objects of the base's files, or of an overlay as kubectl builds it; a member that Kubernetes does not know is an error.</summary>
    public static async Task<Manifests> ReadAsync(string folder)
    {
        if (folder == "base")
        {
            string[] files = [.. Directory.GetFiles(Path.Combine(Folder, "kubernetes/base"), "*.yaml").Where(file => Path.GetFileName(file) != "kustomization.yaml")];
            return new Manifests([.. files.SelectMany(file => Parse(File.ReadAllText(file)))]);
        }
        Assert.SkipUnless(IsInstalled("kubectl"), "kubectl is not installed, which builds overlays");
        return new Manifests(Parse(await ToolProcess.RunAsync([], "kubectl", "kustomize", Path.Combine(Folder, "kubernetes", folder))));
    }

    public static List<object> Parse(string yaml) => KubernetesYaml.LoadAllFromString(yaml, strict: true);

    private static bool IsInstalled(string program) => Environment.GetEnvironmentVariable("PATH")!.Split(':').Any(directory => File.Exists(Path.Combine(directory, program)));

    private static string Find()
    {
        DirectoryInfo? directory = new(AppContext.BaseDirectory);
        while (directory is not null && !File.Exists(Path.Combine(directory.FullName, "CheckpointEngine.slnx")))
        {
            directory = directory.Parent;
        }
        return Path.Combine(directory!.FullName, "deploy");
    }
}

/// <summary>The objects that are applied together.</summary>
internal sealed class Manifests(IReadOnlyList<object> objects)
{
    public IReadOnlyList<object> Objects => objects;

    public V1DaemonSet Holders => objects.OfType<V1DaemonSet>().Single();

    public V1Deployment Inference => objects.OfType<V1Deployment>().Single();

    public V1Service Service => objects.OfType<V1Service>().Single();

    public V1NetworkPolicy Policy => objects.OfType<V1NetworkPolicy>().Single();

    public V1Container Holder => Holders.Spec.Template.Spec.Containers.Single();

    public V1Container Joiner => Inference.Spec.Template.Spec.InitContainers.Single();
}
