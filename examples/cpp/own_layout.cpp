// An inference engine that lays tensors out its own way: the q, k and v projections of a layer become one matrix, everything lies in one arena.
// Buckets arrive checked while the next one is on its way; the callback copies each tensor to where this engine wants it, so that reading from
// the network and laying out go on at the same time, and no second copy of the model is ever needed.
//
//     c++ -std=c++17 -O2 -I artifacts/include examples/cpp/own_layout.cpp -L artifacts/lib -lcheckpoint_engine -Wl,-rpath,$PWD/artifacts/lib -o own_layout
//     artifacts/bin/checkpoint-engine serve --checkpoint qwen=/models/qwen      (or examples/c/serve_and_join.c)
//     ./own_layout http://127.0.0.1:19700/v1/metas
//
// Prints a line for each fused matrix, then "checksum HEX, N bytes at R GiB/s". Exit status: 0 done, 1 failed, 2 wrong usage, 3 the model cannot be
// laid out (a projection without its siblings, or of another dtype).
#include <checkpoint_engine.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <unordered_map>

namespace ce = checkpoint_engine;

namespace {

constexpr std::uint64_t alignment = 256;      // what this engine's kernels like
constexpr std::array<std::string_view, 3> parts{".q_proj.", ".k_proj.", ".v_proj."};

// A model that this engine cannot use.
struct LayoutError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Fused {
    std::array<std::uint64_t, 3> sizes{};
    ce::Dtype dtype = ce::Dtype::Unknown;
    std::uint64_t offset = 0;
};

// Where each tensor goes, decided from the metas before a byte is read.
class Layout {
public:
    explicit Layout(const ce::Metas &metas) {
        for (const ce::Tensor &tensor : metas) {
            std::size_t part = 0;
            std::string fused_name = name_of_fused(tensor.name, part);
            if (fused_name.empty()) {
                offsets_.emplace(tensor.name, take(tensor.size));
                continue;
            }
            Fused &fused = fused_[fused_name];
            if (fused.dtype != ce::Dtype::Unknown && fused.dtype != tensor.dtype) {
                throw LayoutError(fused_name + " has parts of different dtypes");
            }
            fused.dtype = tensor.dtype;
            fused.sizes[part] = tensor.size;
        }
        for (auto &[fused_name, fused] : fused_) {
            if (std::find(fused.sizes.begin(), fused.sizes.end(), 0U) != fused.sizes.end()) {
                throw LayoutError(fused_name + " lacks one of q, k and v");
            }
            // Row-major with the outputs first: below one another they are one matrix with q's, k's and v's rows.
            fused.offset = take(fused.sizes[0] + fused.sizes[1] + fused.sizes[2]);
            std::uint64_t offset = fused.offset;
            for (std::size_t part = 0; part < parts.size(); offset += fused.sizes[part++]) {
                std::string name = fused_name;
                offsets_.emplace(name.replace(name.find(".qkv."), 5, parts[part]), offset);
            }
        }
    }

    std::uint64_t bytes() const { return used_; }
    std::uint64_t offset_of(std::string_view name) const { return offsets_.at(std::string(name)); }
    const std::map<std::string, Fused> &fused() const { return fused_; }

private:
    static std::string name_of_fused(std::string_view name, std::size_t &part) {
        for (part = 0; part < parts.size(); ++part) {
            std::size_t at = name.find(parts[part]);
            if (at != std::string_view::npos) {
                return std::string(name).replace(at, parts[part].size(), ".qkv.");
            }
        }
        return {};
    }

    std::uint64_t take(std::uint64_t size) {
        std::uint64_t offset = used_;
        used_ = (used_ + size + alignment - 1) / alignment * alignment;
        return offset;
    }

    std::uint64_t used_ = 0;
    std::unordered_map<std::string, std::uint64_t> offsets_;
    std::map<std::string, Fused> fused_;
};

// FNV-1a over 64-bit words: enough to see that two arenas are the same.
std::uint64_t checksum(const std::vector<std::byte> &arena) {
    std::uint64_t sum = 14695981039346656037U;
    for (std::size_t i = 0; i + 8 <= arena.size(); i += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, arena.data() + i, 8);
        sum = (sum ^ word) * 1099511628211U;
    }
    return sum;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s METAS_URL\n", argv[0]);
        return 2;
    }
    try {
        const ce::Metas metas = ce::Metas::fetch(argv[1]);
        const Layout layout(metas);
        std::vector<std::byte> arena(layout.bytes());

        ce::Server joiner(ce::ServerOptions::join_only());
        ce::JoinOptions options;
        options.metas = &metas;
        options.weights_only = true;
        options.destination = ce::Destination::Buckets;
        options.bucket_bytes = 64 << 20;
        options.on_bucket = [&](const ce::Bucket &bucket) {
            for (const ce::Tensor &tensor : bucket) {
                std::copy(tensor.bytes().begin(), tensor.bytes().end(), arena.data() + layout.offset_of(tensor.name));
            }
        };
        const ce::Join join = joiner.join(options);
        while (!join.wait(std::chrono::milliseconds(500))) {
            const ce::JoinProgress progress = join.poll();
            std::fprintf(stderr, "%.0f %%\n", progress.bytes_total == 0 ? 0.0 : 100.0 * static_cast<double>(progress.bytes_done) / static_cast<double>(progress.bytes_total));
        }

        for (const auto &[name, fused] : layout.fused()) {
            std::printf("%s: %llu bytes of %s at %llu\n", name.c_str(), static_cast<unsigned long long>(fused.sizes[0] + fused.sizes[1] + fused.sizes[2]),
                        std::string(ce::name(fused.dtype)).c_str(), static_cast<unsigned long long>(fused.offset));
        }
        const ce::JoinReport report = join.report();
        std::printf("checksum %016llx, %llu bytes at %.2f GiB/s\n", static_cast<unsigned long long>(checksum(arena)), static_cast<unsigned long long>(report.bytes),
                    static_cast<double>(report.bytes) / report.seconds / (1 << 30));
        return 0;
    } catch (const LayoutError &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 3;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
