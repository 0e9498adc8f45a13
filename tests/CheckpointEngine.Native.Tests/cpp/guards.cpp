// TLS of the peer service and of the data port, secrets that change, limits and the audit log through the C++ layer.
// usage: guards DIRECTORY   as c/guards.c
#include "checkpoint_engine.hpp"

#include <fstream>
#include <iostream>
#include <iterator>
#include <numeric>

namespace ce = checkpoint_engine;

namespace {

ce::JoinReport join(const ce::ServerOptions &options, const std::string &url, std::string *planes = nullptr) {
    ce::Server joiner(options);
    ce::JoinOptions join_options;
    join_options.metas_url = url;
    join_options.transport = ce::Transport::Tcp;
    join_options.verify = ce::Verify::Require;
    ce::Join join = joiner.join(join_options);
    join.wait();
    if (planes != nullptr) {
        *planes = join.planes();
    }
    return join.report();
}

template <class F> bool fails(ce_status expected, F f) {
    try {
        f();
    } catch (const ce::Error &error) {
        if (error.status() == expected) {
            return true;
        }
        std::cerr << error.what() << "\n";
    }
    return false;
}

bool encrypts_and_changes_its_secrets(const std::string &directory, std::vector<float> &weights) {
    ce::ServerOptions guarded;
    guarded.token = "old";
    guarded.tls_cert_file = directory + "server.pem";
    guarded.tls_key_file = directory + "server.key";
    guarded.encrypt_data = true;
    ce::ServerOptions ours = ce::ServerOptions::join_only();
    ours.token = "old";
    ours.ca_file = directory + "ca.pem";
    ours.require_encryption = true;
    ce::Server holder(guarded);
    holder.register_tensors("m", {{"w", ce::Dtype::F32, {70000}, weights.data()}});
    const std::string url = holder.peer_url() + "/m";
    std::string planes;
    join(ours, url, &planes);
    holder.set_token("new");
    holder.reload_certificates();
    ce::ServerOptions renewed = ours;
    renewed.token = "new";
    const bool good = planes.find("tcp, encrypted") != std::string::npos && fails(CE_E_REFUSED, [&] { join(ours, url); })
        && join(renewed, url).bytes == weights.size() * sizeof(float) && fails(CE_E_ARGUMENT, [&] { holder.set_token(""); });
    const ce::Server bare;
    return good && fails(CE_E_STATE, [&] { bare.set_token("new"); }) && fails(CE_E_STATE, [&] { bare.reload_certificates(); });
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    const std::string directory = std::string(argv[1]) + "/";
    ce::ServerOptions guarded;
    guarded.tls_cert_file = directory + "server.pem";
    guarded.tls_key_file = directory + "server.key";
    guarded.tls_client_ca_file = directory + "ca.pem";
    guarded.audit_log = directory + "audit-cpp.log";
    guarded.peers = {8, 4};
    guarded.data = {16, 0};
    guarded.max_leases = 2;
    ce::ServerOptions ours = ce::ServerOptions::join_only();
    ours.ca_file = directory + "ca.pem";
    ours.cert_file = directory + "client.pem";
    ours.key_file = directory + "client.key";
    ours.require_tls = true;
    {
        std::vector<float> weights(70000);
        std::iota(weights.begin(), weights.end(), 1.0F);
        ce::Server holder(guarded);
        holder.register_tensors("m", {{"w", ce::Dtype::F32, {70000}, weights.data()}});
        ce::Server joiner(ours);
        ce::JoinOptions options;
        options.metas_url = holder.peer_url() + "/m";
        options.transport = ce::Transport::Tcp;
        options.verify = ce::Verify::Require;
        ce::Join join = joiner.join(options);
        join.wait();
        const ce::Checkpoint checkpoint = join.checkpoint();
        if (holder.peer_url().rfind("ce+tls://", 0) != 0 || checkpoint.size() != 1) {
            std::cerr << "not joined over TLS\n";
            return 1;
        }
    }
    {
        std::vector<float> weights(70000, 1.5F);
        if (!encrypts_and_changes_its_secrets(directory, weights)) {
            std::cerr << "not encrypted, or secrets are not those of now\n";
            return 1;
        }
    }
    guarded.data = {0, 0xffffffffU};
    try {
        ce::Server none(guarded);
        std::cerr << "a limit that is none was taken\n";
        return 1;
    } catch (const ce::Error &error) {
        if (error.status() != CE_E_ARGUMENT) {
            std::cerr << error.what() << "\n";
            return 1;
        }
    }
    std::ifstream log(directory + "audit-cpp.log");
    const std::string text((std::istreambuf_iterator<char>(log)), std::istreambuf_iterator<char>());
    if (text.find("lease-taken") == std::string::npos) {
        std::cerr << "no lease in the audit log:\n" << text;
        return 1;
    }
    return 0;
}
