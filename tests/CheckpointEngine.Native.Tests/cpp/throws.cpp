// A C++ exception that leaves a raw C callback: the process ends by SIGABRT, it does not unwind through the library.
// With the argument "caught" the callback catches it itself, and all goes on.
#include "checkpoint_engine.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace {

int throw_up(void *user, const ce_bucket *) {
    std::fputs("in the callback\n", stdout);
    std::fflush(stdout);
    if (user != nullptr) {
        try {
            throw std::runtime_error("within");
        } catch (const std::runtime_error &) {
            return 0;
        }
    }
    throw std::runtime_error("beyond");
}

} // namespace

int main(int argc, char **argv) {
    alarm(30);
    char byte = 1;
    ce_server_options options{};
    options.struct_size = sizeof options;
    ce_server *server = nullptr;
    ce_tensor tensor{};
    tensor.name = "t";
    tensor.data = &byte;
    tensor.dtype = CE_DTYPE_U8;
    char url[256];
    std::size_t size = sizeof url;
    if (ce_server_create(&options, &server) != CE_OK || ce_server_register_tensors(server, "m", &tensor, 1) != CE_OK
        || ce_server_peer_url(server, url, &size) != CE_OK) {
        return 3;
    }
    std::strcat(url, "/m");
    ce_join_options join_options{};
    join_options.struct_size = sizeof join_options;
    join_options.metas_url = url;
    join_options.destination = CE_TO_BUCKETS;
    join_options.on_bucket = throw_up;
    join_options.user = argc > 1 ? argv[1] : nullptr;
    ce_join *join = nullptr;
    if (ce_join_start(server, &join_options, &join) != CE_OK) {
        return 4;
    }
    ce_status status = CE_E_INTERNAL;
    try {
        status = ce_join_wait(join, CE_FOREVER);
    } catch (...) {
        return 5;      // it came through the library
    }
    return status == CE_OK ? 0 : 6;
}
