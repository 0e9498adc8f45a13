// One end of a transfer, as c/peer.c, through checkpoint_engine.hpp.
//
// peer serve-files NAME PATH...  |  serve-tensors NAME MANIFEST BYTES  |  join memory|tensors|buckets|null URL OUTPUT [MANIFEST BYTES]
// peer join directory URL DIRECTORY
#include "checkpoint_engine.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

namespace ce = checkpoint_engine;

namespace {

std::vector<std::byte> read_all(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    std::vector<std::byte> result(bytes.size());
    std::transform(bytes.begin(), bytes.end(), result.begin(), [](char c) { return static_cast<std::byte>(c); });
    return result;
}

std::vector<ce::CallerTensor> read_manifest(const std::string &path, std::vector<std::byte> &bytes) {
    std::vector<ce::CallerTensor> tensors;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream columns(line);
        ce::CallerTensor tensor;
        std::string dtype, shape, offset, size;
        std::getline(columns, tensor.name, '\t');
        std::getline(columns, dtype, '\t');
        std::getline(columns, shape, '\t');
        std::getline(columns, offset, '\t');
        std::getline(columns, size, '\t');
        tensor.dtype = static_cast<ce::Dtype>(std::stoul(dtype));
        if (shape != "-") {
            std::istringstream dimensions(shape);
            for (std::string dimension; std::getline(dimensions, dimension, ',');) {
                tensor.shape.push_back(std::stoll(dimension));
            }
        }
        tensor.size = std::stoull(size);
        tensor.data = tensor.size == 0 ? nullptr : bytes.data() + std::stoull(offset);
        tensors.push_back(std::move(tensor));
    }
    return tensors;
}

void write(std::ostream &output, const ce::Tensor &tensor) {
    output << tensor.name << '\t' << name(tensor.dtype) << '\t';
    const char *separator = "";
    for (std::int64_t dimension : tensor.shape) {
        output << separator << dimension;
        separator = ",";
    }
    output << '\t' << tensor.size << '\n';
    output.write(reinterpret_cast<const char *>(tensor.data), static_cast<std::streamsize>(tensor.bytes().size()));
}

int serve(const ce::Server &server, const std::string &name, std::vector<std::byte> &bytes) {
    std::cout << "serving " << server.peer_url() << '/' << name << std::endl;
    for (std::string command; std::getline(std::cin, command) && command != "quit";) {
        try {
            if (command == "begin") {
                server.begin_update(name);
            } else if (command == "flip") {
                std::transform(bytes.begin(), bytes.end(), bytes.begin(), [](std::byte b) { return ~b; });
            } else if (command == "commit") {
                server.commit_update(name);
            } else if (command == "unregister") {
                server.unregister(name);
            }
            std::cout << "ok " << command << std::endl;
        } catch (const ce::Error &error) {
            std::cout << ce_status_name(error.status()) << ' ' << error.what() << std::endl;
        }
    }
    return 0;
}

int join(const ce::Server &server, const std::vector<std::string> &arguments) {
    const std::string &to = arguments[1];
    ce::JoinOptions options;
    options.metas_url = arguments[2];
    options.verify = ce::Verify::Require;
    options.transport = std::getenv("CE_PEER_TCP") != nullptr ? ce::Transport::Tcp : ce::Transport::Auto;
    std::ofstream output;
    std::vector<std::byte> bytes;
    if (to == "directory") {
        options.destination = ce::Destination::Directory;
        options.directory = arguments[3];
    } else {
        output.open(arguments[3], std::ios::binary);
    }
    if (to == "tensors") {
        bytes = read_all(arguments[5]);
        options.destination = ce::Destination::Tensors;
        options.tensors = read_manifest(arguments[4], bytes);
    } else if (to == "buckets") {
        options.destination = ce::Destination::Buckets;
        options.bucket_bytes = 100000;
        options.on_bucket = [&output](const ce::Bucket &bucket) {
            for (const ce::Tensor &tensor : bucket) {
                write(output, tensor);
            }
        };
    } else if (to == "null") {
        options.destination = ce::Destination::Null;
    }
    ce::Join join = server.join(options);
    while (!join.wait(std::chrono::milliseconds(50))) {
        ce::JoinProgress progress = join.poll();
        if (progress.bytes_total != 0 && progress.bytes_done > progress.bytes_total) {
            throw std::logic_error("more has arrived than there is");
        }
    }
    ce::JoinReport report = join.report();
    if (to == "memory") {
        for (const ce::Tensor &tensor : join.checkpoint()) {
            write(output, tensor);
        }
    }
    if (to == "tensors") {
        for (const ce::CallerTensor &tensor : options.tensors) {
            ce::Tensor view;
            view.name = tensor.name;
            view.dtype = tensor.dtype;
            view.shape = {tensor.shape.data(), tensor.shape.size()};
            view.data = static_cast<const std::byte *>(tensor.data);
            view.size = tensor.size;
            write(output, view);
        }
    }
    std::cout << "joined " << (report.verified ? "verified" : report.unverified_reason) << ' ' << report.tensors << ' ' << report.bytes << ' '
              << report.buckets << (join.planes().find(": tcp") != std::string::npos ? " tcp" : " local")
              << (report.attached_bytes != 0 ? " attached" : " copied") << std::endl;
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    std::vector<std::string> arguments(argv + 1, argv + argc);
    if (arguments.size() < 3) {
        return 2;
    }
    try {
        ce::ServerOptions options;
        options.drain_timeout = std::chrono::seconds(5);
        if (const char *token = std::getenv("CE_PEER_TOKEN")) {
            options.token = token;
        }
        options.listen = arguments[0] != "join";
        ce::Server server(options);
        std::vector<std::byte> bytes;
        if (arguments[0] == "serve-files") {
            server.register_files(arguments[1], std::vector<std::string>(arguments.begin() + 2, arguments.end()));
            return serve(server, arguments[1], bytes);
        }
        if (arguments[0] == "serve-tensors") {
            bytes = read_all(arguments.at(3));
            server.register_tensors(arguments[1], read_manifest(arguments[2], bytes));
            return serve(server, arguments[1], bytes);
        }
        return join(server, arguments);
    } catch (const ce::Error &error) {
        std::cout << ce_status_name(error.status()) << ' ' << error.what() << std::endl;
        return 1;
    }
}
