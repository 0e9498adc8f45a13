#include "checkpoint_engine.hpp"

std::uint64_t tensors_seen_by_the_other(const checkpoint_engine::Checkpoint &checkpoint) {
    return checkpoint.find("t").as<float>().size();
}
