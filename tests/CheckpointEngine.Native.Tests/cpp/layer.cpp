// What checkpoint_engine.hpp adds to the C interface: owners that move, exceptions that are carried, views that are checked.
// Built as C++17 and as C++20, linked, and with CHECKPOINT_ENGINE_DLOPEN.
// usage: layer DIRECTORY   an empty directory
#include "checkpoint_engine.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <future>
#include <iostream>
#include <numeric>
#include <thread>

namespace ce = checkpoint_engine;

namespace {

std::atomic<int> failures{0};
std::string directory;

void check(bool holds, const char *what, int line) {
    if (!holds) {
        ++failures;
        std::cerr << "layer.cpp:" << line << ": " << what << std::endl;
    }
}
#define CHECK(...) check((__VA_ARGS__), #__VA_ARGS__, __LINE__)

template <class F> void fails(ce_status status, F call, int line) {
    try {
        call();
        check(false, "it did not throw", line);
    } catch (const ce::Error &error) {
        if (error.status() != status || error.what()[0] == 0) {
            check(false, error.what(), line);
        }
    }
}
#define FAILS(status, ...) fails((status), [&] { __VA_ARGS__; }, __LINE__)

static_assert(!std::is_copy_constructible<ce::Server>::value && std::is_nothrow_move_constructible<ce::Server>::value, "moves only");
static_assert(!std::is_copy_constructible<ce::Metas>::value && std::is_nothrow_move_constructible<ce::Metas>::value, "moves only");
static_assert(!std::is_copy_constructible<ce::Checkpoint>::value && std::is_nothrow_move_constructible<ce::Checkpoint>::value, "moves only");
static_assert(!std::is_copy_constructible<ce::Join>::value && std::is_nothrow_move_constructible<ce::Join>::value, "moves only");
static_assert(!std::is_copy_constructible<ce::Cancel>::value && std::is_nothrow_move_constructible<ce::Cancel>::value, "moves only");
static_assert(std::is_nothrow_move_assignable<ce::Join>::value && std::is_nothrow_move_assignable<ce::Server>::value, "moves only");

struct Fixture {
    std::vector<float> weights = std::vector<float>(70000);
    std::vector<std::uint16_t> halves = std::vector<std::uint16_t>(1000);
    float scale = 0.25F;
    ce::Server holder;
    ce::Server joiner{ce::ServerOptions::join_only()};
    std::string url;

    Fixture() {
        std::iota(weights.begin(), weights.end(), 1.0F);
        std::iota(halves.begin(), halves.end(), std::uint16_t{1});
        holder.register_tensors("m", {{"weights", ce::Dtype::F32, {700, 100}, weights.data()},
                                      {"halves", ce::Dtype::BF16, {1000}, halves.data(), 2000},
                                      {"tied", ce::Dtype::BF16, {500}, halves.data() + 500},
                                      {"scale", ce::Dtype::F32, {}, &scale},
                                      {"empty", ce::Dtype::I64, {0, 4}, nullptr}});
        url = holder.peer_url() + "/m";
    }

    ce::JoinOptions options(ce::Destination destination) const {
        ce::JoinOptions options;
        options.metas_url = url;
        options.destination = destination;
        return options;
    }
};

void versions() {
    CHECK(ce::abi_version() == ((std::uint32_t{CE_ABI_MAJOR} << 8) | CE_ABI_MINOR));
    CHECK(!ce::version().empty());
    CHECK(ce::name(ce::Dtype::BF16) == "BF16");
    CHECK(ce::bits(ce::Dtype::F4) == 4);
    CHECK(ce::name(static_cast<ce::Dtype>(999)).empty());
}

void durations() {
    using namespace std::chrono_literals;
    CHECK(ce::detail::milliseconds(0ms) == 0);
    CHECK(ce::detail::milliseconds(-5s) == 0);
    CHECK(ce::detail::milliseconds(1us) == 1);          // never "none"
    CHECK(ce::detail::milliseconds(1500us) == 2);
    CHECK(ce::detail::milliseconds(2s) == 2000);
    CHECK(ce::detail::milliseconds(std::chrono::duration<double>(0.25)) == 250);
    CHECK(ce::detail::milliseconds(std::chrono::hours::max()) == CE_FOREVER);
}

void memory_and_views(const Fixture &fixture) {
    ce::Join join = fixture.joiner.join(fixture.options(ce::Destination::Memory));
    join.wait();
    CHECK(join.wait(std::chrono::seconds(0)));
    ce::JoinReport report = join.report();
    CHECK(report.verified && report.unverified_reason.empty() && report.tensors == 5 && report.bytes == 280000 + 2000 + 1000 + 4);
    CHECK(join.poll().state == ce::JoinState::Done && join.poll().phase == ce::JoinPhase::Ended);
    join.warnings();

    ce::Checkpoint checkpoint = join.checkpoint();
    CHECK(checkpoint.size() == 5 && checkpoint.size_bytes() == report.bytes);
    CHECK(std::distance(checkpoint.begin(), checkpoint.end()) == 5);
    ce::Tensor weights = checkpoint.find("weights");
    CHECK(weights.name == "weights" && weights.dtype == ce::Dtype::F32 && weights.shape.size() == 2 && weights.shape[0] == 700);
    auto floats = weights.as<float>();
    CHECK(floats.size() == 70000 && std::equal(floats.begin(), floats.end(), fixture.weights.begin()));
    CHECK(weights.as<std::uint32_t>().size() == 70000);
    FAILS(CE_E_WRONG_SHAPE, weights.as<double>());
    FAILS(CE_E_WRONG_SHAPE, weights.as<std::uint8_t>());
    CHECK(checkpoint.find("halves").as<std::uint16_t>()[999] == 1000);
    CHECK(checkpoint.find("scale").shape.empty() && checkpoint.find("scale").as<float>()[0] == 0.25F);
    CHECK(checkpoint.find("empty").as<std::int64_t>().empty() && checkpoint.find("empty").shape[1] == 4);
    CHECK(!checkpoint.try_find("not there").has_value() && checkpoint.try_find("tied").has_value());
    FAILS(CE_E_NOT_FOUND, checkpoint.find("not there"));
    FAILS(CE_E_ARGUMENT, checkpoint[5]);
    CHECK(checkpoint.side_files().empty());
    std::vector<char> block(9);
    ce::Tensor crooked;
    crooked.dtype = ce::Dtype::F32;
    crooked.size = 4;
    crooked.data = reinterpret_cast<std::byte *>(block.data()) + (reinterpret_cast<std::uintptr_t>(block.data()) % 4 == 0 ? 1 : 0);
    FAILS(CE_E_WRONG_SHAPE, crooked.as<float>());
#if defined(__cpp_lib_span)
    std::span<const float> span = weights.as<float>();
    CHECK(span.size() == 70000 && span[1] == 2.0F && weights.shape.span().size() == 2);
    std::span deduced{weights.bytes()};
    CHECK(deduced.size_bytes() == 280000);
#endif

    // the handle keeps the memory, whatever goes
    fixture.joiner.unregister("join-checkpoint");
    ce::Checkpoint moved = std::move(checkpoint);
    CHECK(moved.find("weights").as<float>()[69999] == 70000.0F);
    CHECK(checkpoint.get() == nullptr && checkpoint.size() == 0);
    FAILS(CE_E_HANDLE, checkpoint.find("weights"));
    checkpoint = std::move(moved);
    CHECK(checkpoint.size() == 5);
    ce_checkpoint *released = checkpoint.release();
    CHECK(ce::Checkpoint(released).size() == 5 && checkpoint.get() == nullptr);
}

void metas(const Fixture &fixture) {
    ce::Metas known = fixture.holder.metas("m");
    CHECK(known.size() == 5 && known.owners().size() == 1 && known.owners()[0].address == fixture.holder.p2p_address());
    CHECK(known.json().front() == '{' && known.pickle()[0] == std::byte{0x80});
    ce::Metas parsed = ce::Metas::parse(known.json());
    ce::Metas pickled = ce::Metas::parse(known.pickle().data(), known.pickle().size());
    for (std::uint64_t i = 0; i < known.size(); ++i) {
        CHECK(parsed[i].name == known[i].name && pickled[i].size == known[i].size && known[i].data == nullptr && parsed.owner_rank(i) == 0);
        CHECK(known[i].bytes().empty());
    }
    FAILS(CE_E_ARGUMENT, known[5]);
    FAILS(CE_E_INVALID_DATA, ce::Metas::parse("{"));
    ce::Metas fetched = ce::Metas::fetch(fixture.url);
    CHECK(fetched.size() == 5);
    ce::Server other;
    other.load_metas("m", fetched);
    CHECK(other.metas("m").size() == 5);

    ce::JoinOptions options = fixture.options(ce::Destination::Null);
    options.metas_url.clear();
    options.metas = &fetched;
    options.include = {"*eight*", "scale"};
    options.exclude = {"scale"};
    ce::Join join = fixture.joiner.join(options);
    fetched = ce::Metas(nullptr);
    join.wait();
    CHECK(join.report().tensors == 1);
    options.metas = &fetched;
    FAILS(CE_E_HANDLE, fixture.joiner.join(options));
}

void destinations(const Fixture &fixture) {
    std::vector<float> weights(70000);
    ce::JoinOptions options = fixture.options(ce::Destination::Tensors);
    options.tensors = {{"weights", ce::Dtype::F32, {700, 100}, weights.data()}};
    fixture.joiner.join(options).wait();
    CHECK(weights == fixture.weights);

    options = fixture.options(ce::Destination::Directory);
    options.directory = directory + "/copy";
    fixture.joiner.join(options).wait();
    std::ofstream(directory + "/copy/config.json") << "{}";
    fixture.holder.register_files("files", {options.directory});
    ce::Checkpoint files = fixture.holder.checkpoint("files");
    CHECK(files.find("weights").size == 280000);
    CHECK(files.side_files().size() == 1 && files.side_files()[0].name == "config.json" && files.side_files()[0].data.size() == 2);

    std::uint64_t seen = 0;
    std::uint64_t next = 0;
    options = fixture.options(ce::Destination::Buckets);
    options.bucket_bytes = 1;
    options.on_bucket = [&](const ce::Bucket &bucket) {
        CHECK(bucket.index() == next++ && bucket.count() > bucket.index());
        for (const ce::Tensor &tensor : bucket) {
            CHECK(tensor.data == nullptr || (tensor.data >= bucket.data() && tensor.data + tensor.size <= bucket.data() + bucket.size_bytes()));
            ++seen;
        }
    };
    ce::Join join = fixture.joiner.join(options);
    options.on_bucket = nullptr;      // it was copied
    join.wait();
    CHECK(seen == 5 && join.report().buckets == next);
}

struct Unusual {
    int value;
};

void exceptions(const Fixture &fixture) {
    int calls = 0;
    ce::JoinOptions options = fixture.options(ce::Destination::Buckets);
    options.bucket_bytes = 1;
    options.on_bucket = [&](const ce::Bucket &) {
        if (++calls == 2) {
            throw Unusual{42};
        }
    };
    ce::Join join = fixture.joiner.join(options);
    for (int i = 0; i < 2; ++i) {      // as often as one waits
        try {
            i == 0 ? join.wait() : static_cast<void>(join.wait(std::chrono::hours(1)));
            check(false, "it ended well", __LINE__);
        } catch (const Unusual &unusual) {
            CHECK(unusual.value == 42);
        }
    }
    CHECK(calls == 2 && join.poll().state == ce::JoinState::Failed);
    FAILS(CE_E_STATE, join.report());
    FAILS(CE_E_STATE, join.checkpoint());

    // an exception of somebody who does not wait goes with the join
    options.on_bucket = [](const ce::Bucket &) { throw std::runtime_error("nobody hears this"); };
    { ce::Join unheard = fixture.joiner.join(options); }

    // calls of the engine from inside may fail and be carried like anything
    options.on_bucket = [&](const ce::Bucket &) { fixture.joiner.checkpoint("not there"); };
    FAILS(CE_E_NOT_FOUND, fixture.joiner.join(options).wait());
}

void cancelling(const Fixture &fixture) {
    std::promise<void> entered;
    std::promise<void> go_on;
    std::shared_future<void> may_go_on = go_on.get_future().share();
    std::atomic<int> calls{0};
    ce::JoinOptions options = fixture.options(ce::Destination::Buckets);
    options.bucket_bytes = 1;
    options.on_bucket = [&](const ce::Bucket &) {
        if (calls++ == 0) {
            entered.set_value();
            may_go_on.wait();
        }
    };
    ce::Join join = fixture.joiner.join(options);
    entered.get_future().wait();
    CHECK(!join.wait(std::chrono::milliseconds(1)));
    CHECK(!join.wait(std::chrono::seconds(0)));
    ce::Join moved = std::move(join);      // while the callback runs: its state has not moved
    moved.cancel();
    go_on.set_value();
    FAILS(CE_E_CANCELLED, moved.wait());
    CHECK(calls == 1 && moved.poll().state == ce::JoinState::Cancelled);
    FAILS(CE_E_HANDLE, join.poll());
    FAILS(CE_E_HANDLE, join.wait());

    // a destructor in the middle waits for the callback
    entered = {};
    calls = 0;
    std::promise<void> second_go;
    std::atomic<bool> out{false};
    options.on_bucket = [&](const ce::Bucket &) {
        if (calls++ == 0) {
            entered.set_value();
            second_go.get_future().wait();
            out = true;
        }
    };
    std::thread helper;
    {
        ce::Join running = fixture.joiner.join(options);
        entered.get_future().wait();
        helper = std::thread([&] { second_go.set_value(); });
    }
    CHECK(out);
    int at_the_end = calls;      // more than one when the callback was let go before the destructor's cancel
    helper.join();
    CHECK(calls == at_the_end);

    ce::Cancel cancel;
    cancel.trigger();
    FAILS(CE_E_CANCELLED, ce::Metas::fetch(fixture.url, {}, &cancel));
    FAILS(CE_E_CANCELLED, fixture.holder.register_files("x", {directory + "/copy"}, &cancel));
}

void server(Fixture &fixture) {
    FAILS(CE_E_STATE, fixture.joiner.peer_url());
    FAILS(CE_E_ALREADY_EXISTS, fixture.holder.register_tensors("m", {{"s", ce::Dtype::F32, {}, &fixture.scale}}));
    FAILS(CE_E_ARGUMENT, fixture.holder.checkpoint(std::string("a\0b", 3)));
    FAILS(CE_E_NOT_FOUND, fixture.holder.unregister("nobody"));
    ce::ServerOptions wildcard;
    wildcard.address = "0.0.0.0";
    FAILS(CE_E_ARGUMENT, ce::Server{wildcard});

    fixture.holder.update("m", [&] { fixture.scale = 0.5F; });
    std::vector<float> scale(1);
    ce::JoinOptions options = fixture.options(ce::Destination::Tensors);
    options.tensors = {{"scale", ce::Dtype::F32, {}, scale.data()}};
    fixture.joiner.join(options).wait();
    CHECK(scale[0] == 0.5F);
    try {
        fixture.holder.update("m", [] { throw Unusual{7}; });
        check(false, "it did not throw", __LINE__);
    } catch (const Unusual &) {
    }
    FAILS(CE_E_BUSY, ce::Metas::fetch(fixture.url));      // half changed: not told
    fixture.holder.commit_update("m");
    CHECK(ce::Metas::fetch(fixture.url).size() == 5);

    ce::ServerOptions guarded;
    guarded.token = "secret";
    ce::Server other(guarded);
    other.register_files("f", {directory + "/copy"});
    ce::FetchOptions with_token;
    FAILS(CE_E_REFUSED, ce::Metas::fetch(other.peer_url() + "/f"));
    with_token.token = "secret";
    CHECK(ce::Metas::fetch(other.peer_url() + "/f", with_token).size() == 5);
    other.replace_files("f", {directory + "/copy"});
    CHECK(other.checkpoint("f").size() == 5);
    FAILS(CE_E_NOT_FOUND, other.replace_files("f", {directory + "/nowhere"}));
    ce::Server moved = std::move(other);
    CHECK(moved.checkpoint("f").size() == 5);
    FAILS(CE_E_HANDLE, other.peer_url());
    moved = ce::Server(ce::ServerOptions::join_only());      // the first one ends here
    FAILS(CE_E_NOT_FOUND, moved.checkpoint("f"));
}

// Versions that follow each other: replaced, reused, followed; and a replica that is gone.
void generations(const Fixture &fixture) {
    using namespace std::chrono_literals;
    ce::ServerOptions leased;
    leased.require_lease = true;
    leased.grace_time = 1ms;
    ce::Server holder(leased);
    holder.register_files("f", {directory + "/copy"});
    std::string url = holder.peer_url() + "/f";
    std::string dead;
    {
        ce::Server other;
        dead = other.peer_url() + "/f";
    }
    std::optional<ce::Metas> known = ce::Metas::follow(url, nullptr, 0s);
    CHECK(known.has_value() && known->size() == 5);
    CHECK(!ce::Metas::follow(url, &*known, 0s).has_value());

    ce::JoinOptions options;
    options.metas_url = dead;
    options.replica_urls = {url};
    options.checkpoint_name = "followed";
    options.transport = ce::Transport::Tcp;
    ce::Join join = fixture.joiner.join(options);
    join.wait();
    CHECK(join.warnings().find("went on without it") != std::string::npos && join.report().reused_bytes == 0);

    std::future<std::optional<ce::Metas>> next = std::async(std::launch::async, [&] { return ce::Metas::follow(url, &*known, 1h); });
    holder.replace_files("f", {directory + "/copy"});
    std::optional<ce::Metas> now = next.get();
    CHECK(now.has_value() && now->size() == 5);
    options.replica_urls.clear();
    options.metas_url = url;
    FAILS(CE_E_ALREADY_EXISTS, fixture.joiner.join(options).wait());
    options.replace = true;
    options.earlier_checkpoint = "followed";
    join = fixture.joiner.join(options);
    join.wait();
    CHECK(join.report().verified && join.report().reused_bytes >= join.report().bytes);      // nothing has changed
    CHECK(join.checkpoint().find("weights").as<float>()[69999] == 70000.0F);

    options.metas_url = dead;
    options.retry_timeout = 0ms;
    FAILS(CE_E_UNREACHABLE, fixture.joiner.join(options).wait());
    CHECK(fixture.joiner.checkpoint("followed").size() == 5);
    ce::Metas fetched = ce::Metas::fetch(url);
    FAILS(CE_E_ARGUMENT, ce::Metas::follow(url, &fetched, 0s));
    fetched = ce::Metas(nullptr);
    FAILS(CE_E_HANDLE, ce::Metas::follow(url, &fetched, 0s));
    ce::Cancel cancel;
    cancel.trigger();
    FAILS(CE_E_CANCELLED, ce::Metas::follow(url, &*now, 1h, {}, &cancel));
}

// Two that read from each other, and memory that is kept for the next checkpoint.
void sharing(const Fixture &fixture) {
    using namespace std::chrono_literals;
    ce::Server one(ce::ServerOptions::join_only());
    ce::Server two(ce::ServerOptions::join_only());
    ce::JoinOptions options;
    options.metas_url = fixture.url;
    options.transport = ce::Transport::Tcp;
    options.relay = true;
    ce::Join first = one.join(options);
    ce::Join second = two.join(options);
    for (const ce::Join *join : {&first, &second}) {
        join->wait();
        CHECK(join->report().verified && join->report().retried_bytes == 0 && join->report().relayed_bytes <= join->report().bytes);
        CHECK(join->warnings().find("relay") == std::string::npos);
        CHECK(join->checkpoint().size() == 5);
    }
    CHECK(one.finish_relays(1min) && two.finish_relays(1min));
    options.checkpoint_name = "alone";
    options.verify = ce::Verify::Off;
    ce::Join alone = one.join(options);
    alone.wait();
    CHECK(alone.warnings().find("without relay: ") != std::string::npos);
    ce::Cancel cancel;
    CHECK(one.finish_relays(0s, &cancel));
    cancel.trigger();
    FAILS(CE_E_CANCELLED, one.finish_relays(1h, &cancel));

    const std::vector<std::string> files{directory + "/copy"};
    two.register_files("pooled", files, nullptr, ce::SharedPool::On);
    const void *kept = two.checkpoint("pooled").find("weights").data;
    two.unregister("pooled");
    two.register_files("pooled", files, nullptr, ce::SharedPool::On);
    CHECK(two.checkpoint("pooled").find("weights").data == kept);
    two.replace_files("pooled", files, nullptr, ce::SharedPool::Off);
    CHECK(two.checkpoint("pooled").find("weights").data != kept);
    two.unregister_force("pooled");
    FAILS(CE_E_NOT_FOUND, two.unregister_force("pooled"));
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    alarm(60);
    directory = argv[1];
    try {
        Fixture fixture;
        versions();
        durations();
        memory_and_views(fixture);
        metas(fixture);
        destinations(fixture);
        exceptions(fixture);
        cancelling(fixture);
        server(fixture);
        generations(fixture);
        sharing(fixture);
    } catch (const std::exception &error) {
        std::cerr << "unexpected: " << error.what() << std::endl;
        return 1;
    }
    return failures == 0 ? 0 : 1;
}
