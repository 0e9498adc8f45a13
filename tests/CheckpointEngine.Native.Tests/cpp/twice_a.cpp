// The header twice in one file and in two files of one program: nothing is defined twice.
#include "checkpoint_engine.hpp"
#include "checkpoint_engine.h"
#include "checkpoint_engine.hpp"

#include <iostream>

std::uint64_t tensors_seen_by_the_other(const checkpoint_engine::Checkpoint &checkpoint);

int main() {
    float value = 1;
    checkpoint_engine::Server server;
    server.register_tensors("m", {{"t", checkpoint_engine::Dtype::F32, {1}, &value}});
    std::cout << checkpoint_engine::version() << std::endl;
    return tensors_seen_by_the_other(server.checkpoint("m")) == 1 ? 0 : 1;
}
