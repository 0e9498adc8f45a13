using System.CommandLine;
using System.CommandLine.Parsing;
using CheckpointEngine.Cli.Tests.Support;
using k8s.Models;
using YamlDotNet.Core;

namespace CheckpointEngine.Cli.Tests.Deployment;

/// <summary>The manifests say what Kubernetes knows, what the command takes, and what fits together. No cluster runs them here; the commands in them are run.</summary>
public sealed class KubernetesManifestTests
{
    private const int HttpDrainSeconds = 30;

    [Theory]
    [InlineData("base", 4)]
    [InlineData("overlays/rdma", 4)]
    [InlineData("overlays/relay", 4)]
    public async Task Manifests_AreOfKnownKindsAndOfThisVersion(string folder, int count)
    {
        Manifests manifests = await Deploy.ReadAsync(folder);

        Assert.Equal(count, manifests.Objects.Count);
        V1Container[] ours = [manifests.Holder, manifests.Joiner, .. manifests.Holders.Spec.Template.Spec.InitContainers];
        Assert.All(ours, container => Assert.Equal("checkpoint-engine:" + Deploy.Version, container.Image));
    }

    [Theory]
    [InlineData("readinessProbe:", "readynessProbe:")]
    [InlineData("terminationGracePeriodSeconds: 120", "terminationGracePeriodSeconds: soon")]
    [InlineData("mountPath: /tmp", "mountpath: /tmp")]
    public void Parser_OfAMistake_Refuses(string right, string wrong)
    {
        string yaml = Deploy.Text("kubernetes/base/holder.yaml");
        Assert.NotEmpty(Deploy.Parse(yaml));
        Assert.ThrowsAny<YamlException>(() => Deploy.Parse(yaml.Replace(right, wrong, StringComparison.Ordinal)));
    }

    [Theory]
    [InlineData("base")]
    [InlineData("overlays/rdma")]
    [InlineData("overlays/relay")]
    public async Task Arguments_AreTheCommands(string folder)
    {
        Manifests manifests = await Deploy.ReadAsync(folder);

        Assert.Equal("serve", Parse(manifests.Holder).CommandResult.Command.Name);
        Assert.Equal("join", Parse(manifests.Joiner).CommandResult.Command.Name);
    }

    [Theory]
    [InlineData("base")]
    [InlineData("overlays/rdma")]
    [InlineData("overlays/relay")]
    public async Task Holder_PortsProbesAndMounts_FitItsArguments(string folder)
    {
        Manifests manifests = await Deploy.ReadAsync(folder);
        V1Container holder = manifests.Holder;
        V1PodSpec pod = manifests.Holders.Spec.Template.Spec;
        string[] listen = Values(holder, "--listen");

        V1ContainerPort port = Assert.Single(holder.Ports);
        Assert.Contains($"http://0.0.0.0:{port.ContainerPort}", listen);
        Assert.Equal(["/v1/healthz", "/v1/healthz", "/v1/readyz"], new[] { holder.StartupProbe, holder.LivenessProbe, holder.ReadinessProbe }.Select(probe => probe.HttpGet.Path));
        Assert.All([holder.StartupProbe, holder.LivenessProbe, holder.ReadinessProbe], probe => Assert.Equal(port.Name, probe.HttpGet.Port));
        AssertMounted(pod, holder, listen.Where(address => address.StartsWith("unix:", StringComparison.Ordinal)).Select(address => address["unix:".Length..]), isWritten: true);
        AssertMounted(pod, holder, Values(holder, "--local-socket"), isWritten: true);
        AssertMounted(pod, holder, [.. Values(holder, "--token-file"), Values(holder, "--checkpoint").Single().Split('=')[1]], isWritten: false);
        Assert.True(pod.TerminationGracePeriodSeconds > HttpDrainSeconds + int.Parse(Values(holder, "--drain-timeout").Single()));
        Assert.Equal("status.podIP", holder.Env.Single(variable => Values(holder, "--address").Single() == $"$({variable.Name})").ValueFrom.FieldRef.FieldPath);
    }

    [Theory]
    [InlineData("base")]
    [InlineData("overlays/rdma")]
    [InlineData("overlays/relay")]
    public async Task Joiner_ReadsFromTheHoldersAndWritesWhatTheServerSees(string folder)
    {
        Manifests manifests = await Deploy.ReadAsync(folder);
        V1Container joiner = manifests.Joiner, server = manifests.Inference.Spec.Template.Spec.Containers.Single();
        V1PodSpec pod = manifests.Inference.Spec.Template.Spec;

        string url = Assert.Single(Values(joiner, "--metas-url"));
        if (folder == "base")
        {
            string socket = url["unix:".Length..url.LastIndexOf(':')];
            Assert.Contains("unix:" + socket, Values(manifests.Holder, "--listen"));
            AssertMounted(pod, joiner, [socket], isWritten: true);
            // The socket is its owner's alone, and the same directory of the node.
            Assert.Equal(manifests.Holder.SecurityContext.RunAsUser, joiner.SecurityContext.RunAsUser);
            Assert.Equal(HostPath(manifests.Holders.Spec.Template.Spec, manifests.Holder, socket), HostPath(pod, joiner, socket));
        }
        else
        {
            Assert.Equal($"http://{manifests.Service.Metadata.Name}:{manifests.Service.Spec.Ports.Single().Port}/v1/metas", url);
        }
        string directory = Values(joiner, "--to").Single()["dir:".Length..];
        AssertMounted(pod, joiner, [directory], isWritten: true);
        AssertMounted(pod, joiner, Values(joiner, "--token-file"), isWritten: false);
        V1VolumeMount mount = Find(joiner, directory);
        Assert.Equal(mount.Name, Find(server, directory).Name);
        Assert.Equal("Memory", pod.Volumes.Single(volume => volume.Name == mount.Name).EmptyDir.Medium);
        Assert.Contains(directory, server.Args);
    }

    [Theory]
    [InlineData("base")]
    [InlineData("overlays/rdma")]
    [InlineData("overlays/relay")]
    public async Task Selectors_FindThePods(string folder)
    {
        Manifests manifests = await Deploy.ReadAsync(folder);
        IDictionary<string, string> holder = manifests.Holders.Spec.Template.Metadata.Labels, reader = manifests.Inference.Spec.Template.Metadata.Labels;

        Assert.All(manifests.Holders.Spec.Selector.MatchLabels, label => Assert.Equal(label.Value, holder[label.Key]));
        Assert.All(manifests.Inference.Spec.Selector.MatchLabels, label => Assert.Equal(label.Value, reader[label.Key]));
        Assert.All(manifests.Service.Spec.Selector, label => Assert.Equal(label.Value, holder[label.Key]));
        Assert.Equal(manifests.Holder.Ports.Single().Name, manifests.Service.Spec.Ports.Single().TargetPort);
        Assert.True(Selects(manifests.Policy.Spec.PodSelector, holder));
        Assert.Contains(manifests.Policy.Spec.Ingress[0].FromProperty, peer => Selects(peer.PodSelector, reader));
        Assert.Equal(folder == "overlays/relay", Selects(manifests.Policy.Spec.PodSelector, reader));
    }

    [Fact]
    public async Task Base_NeedsNoPrivilege()
    {
        Manifests manifests = await Deploy.ReadAsync("base");
        Assert.All([manifests.Holder, manifests.Joiner], container =>
        {
            Assert.True(container.SecurityContext is { RunAsNonRoot: true, AllowPrivilegeEscalation: false, ReadOnlyRootFilesystem: true });
            Assert.Equal(["ALL"], container.SecurityContext.Capabilities.Drop);
            Assert.Null(container.SecurityContext.Capabilities.Add);
        });
    }

    [Fact]
    public async Task Rdma_AsksForTheAdapterAndLocksMemory()
    {
        Manifests manifests = await Deploy.ReadAsync("overlays/rdma");
        Assert.All([manifests.Holder, manifests.Joiner], container =>
        {
            Assert.Equal("1", container.Resources.Limits["rdma/hca"].ToString());
            Assert.Equal(["IPC_LOCK"], container.SecurityContext.Capabilities.Add);
            Assert.Equal(0, container.SecurityContext.RunAsUser);
        });
        Assert.True(manifests.Holders.Spec.Template.Spec.HostNetwork);
        Assert.Contains("--require-lease", manifests.Holder.Args);      // queue pairs are a lease's
    }

    [Fact]
    public async Task Arguments_OfHolderAndJoiner_MoveACheckpoint()
    {
        Manifests manifests = await Deploy.ReadAsync("base");
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        File.WriteAllText(temp["token"], "0123456789abcdef0123456789abcdef");
        await using Holder holder = await Holder.StartAsync([.. Here(manifests.Holder), "--json"]);

        (await Engine.RunAsync(Here(manifests.Joiner))).Succeeded();

        Assert.Equal(SmallCheckpoint.Digest(SmallCheckpoint.Read(temp["model"])), SmallCheckpoint.Digest(SmallCheckpoint.Read(temp["copy"])));

        string[] Here(V1Container container) => [.. container.Args.Select(argument => argument
            .Replace("/models/model", temp["model"], StringComparison.Ordinal)
            .Replace("/etc/checkpoint-engine", temp.Path, StringComparison.Ordinal)
            .Replace("/run/checkpoint-engine", temp.Path, StringComparison.Ordinal)
            .Replace("/dev/shm/model", temp["copy"], StringComparison.Ordinal)
            .Replace("0.0.0.0:19700", "127.0.0.1:0", StringComparison.Ordinal)
            .Replace("$(POD_IP)", "127.0.0.1", StringComparison.Ordinal))];
    }

    private static ParseResult Parse(V1Container container)
    {
        ParseResult parsed = CommandLine.BuildRoot().Parse([.. container.Args.Select(argument => argument.Replace("$(POD_IP)", "10.1.2.3", StringComparison.Ordinal))],
            new ParserConfiguration { EnablePosixBundling = false, ResponseFileTokenReplacer = null });
        Assert.Empty(parsed.Errors.Select(error => error.Message));
        return parsed;
    }

    private static string[] Values(V1Container container, string option)
        => [.. container.Args.Where(argument => argument.StartsWith(option + "=", StringComparison.Ordinal)).Select(argument => argument[(option.Length + 1)..])];

    private static V1VolumeMount Find(V1Container container, string path)
        => container.VolumeMounts.Single(mount => path.StartsWith(mount.MountPath + "/", StringComparison.Ordinal));

    private static string HostPath(V1PodSpec pod, V1Container container, string path)
        => pod.Volumes.Single(volume => volume.Name == Find(container, path).Name).HostPath.Path;

    private static void AssertMounted(V1PodSpec pod, V1Container container, IEnumerable<string> paths, bool isWritten)
    {
        Assert.NotEmpty(paths);
        Assert.All(paths, path =>
        {
            V1VolumeMount mount = Find(container, path);
            Assert.Contains(pod.Volumes, volume => volume.Name == mount.Name);
            Assert.Equal(isWritten, mount.ReadOnlyProperty is not true);
        });
    }

    private static bool Selects(V1LabelSelector selector, IDictionary<string, string> labels)
        => (selector.MatchLabels ?? new Dictionary<string, string>()).All(label => labels.TryGetValue(label.Key, out string? value) && value == label.Value)
            && (selector.MatchExpressions ?? []).All(expression => expression.OperatorProperty == "In" && labels.TryGetValue(expression.Key, out string? value) && expression.Values.Contains(value));
}
