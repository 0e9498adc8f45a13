/* Versions of a checkpoint that follow each other, and owners that come and go: replaced while it is read, joined again with what is here already,
 * replicas of which some are dead, metas that are asked for again, and followed.
 * usage: generations DIRECTORY   an empty directory */
#include "test.h"

#include <sched.h>
#include <time.h>

struct world {
    struct model model[2];      /* the first version and the second, which differ in layer.0.scale alone */
    char path[2][1024];         /* the same as files */
    ce_server *holder;
    ce_server *joiner;
    char url[256];
    char dead_url[256];         /* of a server that is gone, and its host and port alone */
    char dead_address[256];
    const char *directory;
};

static ce_server *server_make(const ce_server_options *options, const char *path, char *url, size_t size) {
    ce_server *server;
    MUST(ce_server_create(options, &server));
    MUST(ce_server_register_files(server, "m", &path, 1, NULL));
    MUST(ce_server_peer_url(server, url, &size));
    strcat(url, "/m");
    return server;
}

static ce_join_options options_of(const char *url, uint32_t destination) {
    ce_join_options options = { .struct_size = sizeof options, .metas_url = url, .destination = destination, .transport = CE_TRANSPORT_TCP };
    return options;
}

static ce_join *joined(ce_server *server, const ce_join_options *options) {
    ce_join *join;
    MUST(ce_join_start(server, options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    return join;
}

static void ends_with_either(ce_server *server, const ce_join_options *options, ce_status status, ce_status other) {
    ce_join *join;
    MUST(ce_join_start(server, options, &join));
    EITHER(status, other, ce_join_wait(join, CE_FOREVER));
    OK(ce_join_destroy(join));
}

static void ends_with(ce_server *server, const ce_join_options *options, ce_status status) { ends_with_either(server, options, status, status); }

static int says(ce_join *join, const char *words, const char *more) {
    char text[4096];
    size_t size = sizeof text;
    MUST(ce_join_warnings(join, text, &size));
    return strstr(text, words) != NULL && strstr(text, more) != NULL;
}

static void has(ce_checkpoint *checkpoint, const struct model *model) {
    ce_tensor tensor;
    CHECK(ce_checkpoint_tensor_count(checkpoint) == MODEL_TENSORS);
    for (uint64_t i = 0; i < ce_checkpoint_tensor_count(checkpoint); i++) {
        OK(ce_checkpoint_tensor(checkpoint, i, &tensor));
        CHECK(model_has(model, &tensor));
    }
}

static void server_has(ce_server *server, const char *name, const struct model *model) {
    ce_checkpoint *checkpoint;
    MUST(ce_server_checkpoint(server, name, &checkpoint));
    has(checkpoint, model);
    OK(ce_checkpoint_destroy(checkpoint));
}

static void replace(ce_server *server, const char *path) { OK(ce_server_replace_files(server, "m", &path, 1, NULL)); }

static void world_make(struct world *world, const char *directory) {
    memset(world, 0, sizeof *world);
    world->directory = directory;
    for (int version = 0; version < 2; version++) {
        struct pair pair;
        model_make(&world->model[version], 1);
        pair_make(&pair);
        if (version == 1) {
            memcpy(world->model[1].tensors[4].data, "\1\2\3\4", 4);
            OK(ce_server_begin_update(pair.holder, "m"));
            memcpy(pair.model.tensors[4].data, "\1\2\3\4", 4);
            OK(ce_server_commit_update(pair.holder, "m"));
        }
        snprintf(world->path[version], sizeof world->path[version], "%s/v%d", directory, version);
        ce_join_options options = pair_options(&pair, CE_TO_DIRECTORY);
        options.directory = world->path[version];
        OK(ce_join_destroy(joined(pair.joiner, &options)));
        pair_free(&pair);
    }
    ce_server_options options = { .struct_size = sizeof options };
    OK(ce_server_destroy(server_make(&options, world->path[0], world->dead_url, sizeof world->dead_url)));
    sscanf(world->dead_url, "ce://%255[^/]", world->dead_address);
    world->holder = server_make(&options, world->path[0], world->url, sizeof world->url);
    options.flags = CE_SERVER_JOIN_ONLY;
    MUST(ce_server_create(&options, &world->joiner));
}

/* A consumer that stops in its first bucket. */
struct reader {
    const struct model *model;
    struct gate entered;
    struct gate go_on;
    uint64_t tensors;
};

static int read_on(void *user, const ce_bucket *bucket) {
    struct reader *reader = (struct reader *)user;
    if (bucket->index == 0) {
        gate_open(&reader->entered);
        gate_wait(&reader->go_on);
    }
    for (uint64_t i = 0; i < bucket->tensor_count; i++) {
        CHECK(model_has(reader->model, &bucket->tensors[i]));
        reader->tensors++;
    }
    return 0;
}

static ce_join *read_slowly(ce_server *server, ce_join_options options, struct reader *reader) {
    ce_join *join;
    options.destination = CE_TO_BUCKETS;
    options.bucket_bytes = 1;
    options.on_bucket = read_on;
    options.user = reader;
    MUST(ce_join_start(server, &options, &join));
    gate_wait(&reader->entered);
    return join;
}

static void replaced_while_it_is_read(struct world *world) {
    struct reader reader = { .model = &world->model[0], .entered = GATE_INIT, .go_on = GATE_INIT };
    ce_join *join = read_slowly(world->joiner, options_of(world->url, 0), &reader);
    const char *second = world->path[1];
    const char *nowhere = "/there/is/no/such";

    IS(CE_E_ALREADY_EXISTS, ce_server_register_files(world->holder, "m", &second, 1, NULL));
    IS(CE_E_NOT_FOUND, ce_server_replace_files(world->holder, "m", &nowhere, 1, NULL));
    server_has(world->holder, "m", &world->model[0]);      /* the old one stays */
    replace(world->holder, second);
    server_has(world->holder, "m", &world->model[1]);
    ce_join_options options = options_of(world->url, CE_TO_MEMORY);
    OK(ce_join_destroy(joined(world->joiner, &options)));
    server_has(world->joiner, "join-checkpoint", &world->model[1]);
    OK(ce_server_unregister(world->joiner, "join-checkpoint"));

    gate_open(&reader.go_on);      /* who began before has all of the old one */
    OK(ce_join_wait(join, CE_FOREVER));
    CHECK(reader.tensors == MODEL_TENSORS);
    OK(ce_join_destroy(join));
    OK(ce_server_unregister(world->holder, "m"));
    replace(world->holder, world->path[0]);      /* of nothing: as registering */
    server_has(world->holder, "m", &world->model[0]);
}

static void joined_again_with_what_is_here(struct world *world) {
    ce_join_options options = options_of(world->url, CE_TO_MEMORY);
    ce_join_report report = { .struct_size = sizeof report };
    ce_checkpoint *before;
    options.checkpoint_name = "mine";
    options.earlier_checkpoint = "nobody";
    options.replace = 1;                         /* of nothing */
    ce_join *join = joined(world->joiner, &options);
    OK(ce_join_get_report(join, &report));
    CHECK(report.reused_bytes == 0);
    MUST(ce_join_checkpoint(join, &before));
    OK(ce_join_destroy(join));

    replace(world->holder, world->path[1]);
    options.replace = 0;
    ends_with(world->joiner, &options, CE_E_ALREADY_EXISTS);
    options.metas_url = world->dead_url;
    options.replace = 1;
    ends_with(world->joiner, &options, CE_E_UNREACHABLE);
    server_has(world->joiner, "mine", &world->model[0]);      /* and the old one stays */
    options.metas_url = world->url;
    options.earlier_checkpoint = "mine";
    join = joined(world->joiner, &options);
    OK(ce_join_get_report(join, &report));
    CHECK(report.verified == 1);
    CHECK(report.reused_bytes >= report.bytes / 2 && report.reused_bytes < report.bytes);
    OK(ce_join_destroy(join));
    server_has(world->joiner, "mine", &world->model[1]);
    has(before, &world->model[0]);               /* its handle keeps it */
    OK(ce_checkpoint_destroy(before));
    OK(ce_server_unregister(world->joiner, "mine"));
    replace(world->holder, world->path[0]);
}

static void replicas_of_which_some_are_dead(struct world *world) {
    ce_server_options server_options = { .struct_size = sizeof server_options, .drain_timeout_ms = 1 };
    char other_url[256];
    ce_server *other = server_make(&server_options, world->path[0], other_url, sizeof other_url);
    const char *replicas[] = { world->dead_url, world->url };
    ce_join_options options = options_of(other_url, CE_TO_MEMORY);
    options.replica_urls = replicas;
    options.replica_count = 2;
    ce_join *join = joined(world->joiner, &options);
    char planes[1024];
    size_t size = sizeof planes;
    CHECK(says(join, "went on without it: ", world->dead_address));
    OK(ce_join_planes(join, planes, &size));
    CHECK(strchr(planes, '\n') != NULL);         /* two owners */
    OK(ce_join_destroy(join));
    server_has(world->joiner, "join-checkpoint", &world->model[0]);
    OK(ce_server_unregister(world->joiner, "join-checkpoint"));

    options.metas_url = world->dead_url;         /* the first as well as another */
    replicas[0] = other_url;
    join = joined(world->joiner, &options);
    CHECK(says(join, "went on without it: ", world->dead_address));
    OK(ce_join_destroy(join));
    OK(ce_server_unregister(world->joiner, "join-checkpoint"));
    options.replica_count = 0;
    ends_with(world->joiner, &options, CE_E_UNREACHABLE);
    options.replica_count = 1;
    replicas[0] = world->dead_url;
    ends_with(world->joiner, &options, CE_E_UNREACHABLE);

    /* dies in the middle */
    struct reader reader = { .model = &world->model[0], .entered = GATE_INIT, .go_on = GATE_INIT };
    options.metas_url = other_url;
    replicas[0] = world->url;
    join = read_slowly(world->joiner, options, &reader);
    OK(ce_server_destroy(other));
    gate_open(&reader.go_on);
    OK(ce_join_wait(join, CE_FOREVER));
    CHECK(reader.tensors == MODEL_TENSORS);
    OK(ce_join_destroy(join));
}

static void document(const struct world *world, const char *url, char *file_url) {
    ce_metas *metas;
    const void *data;
    size_t size;
    char partial[1100];
    char path[1100];
    snprintf(partial, sizeof partial, "%s/metas.partial", world->directory);
    snprintf(path, sizeof path, "%s/metas.json", world->directory);
    MUST(ce_metas_fetch(url, NULL, NULL, &metas));
    MUST(ce_metas_write(metas, CE_METAS_JSON, &data, &size));
    FILE *file = fopen(partial, "wb");
    CHECK(file != NULL && fwrite(data, 1, size, file) == size && fclose(file) == 0 && rename(partial, path) == 0);
    OK(ce_metas_destroy(metas));
    sprintf(file_url, "file://%s", path);
}

static void asked_again(struct world *world) {
    char file_url[1200];
    document(world, world->url, file_url);
    replace(world->holder, world->path[1]);
    ce_join_options options = options_of(file_url, CE_TO_MEMORY);      /* it tells of a generation that is gone */
    options.retry_timeout_ms = CE_NEVER;
    ends_with_either(world->joiner, &options, CE_E_SUPERSEDED, CE_E_REFUSED);
    options.retry_timeout_ms = 1;
    ends_with_either(world->joiner, &options, CE_E_SUPERSEDED, CE_E_REFUSED);

    ce_join *join;
    ce_join_progress progress = { .struct_size = sizeof progress };
    options.retry_timeout_ms = CE_FOREVER;
    MUST(ce_join_start(world->joiner, &options, &join));
    for (progress.phase = CE_PHASE_METAS; progress.phase == CE_PHASE_METAS; sched_yield()) {
        OK(ce_join_poll(join, &progress));
    }
    IS(CE_E_PENDING, ce_join_wait(join, 0));
    document(world, world->url, file_url);       /* and then of the one that is there */
    OK(ce_join_wait(join, CE_FOREVER));
    CHECK(says(join, "went on with the metas of now: ", ""));
    OK(ce_join_destroy(join));
    server_has(world->joiner, "join-checkpoint", &world->model[1]);
    OK(ce_server_unregister(world->joiner, "join-checkpoint"));
    replace(world->holder, world->path[0]);
}

struct following {
    struct world *world;
    ce_metas *known;
    ce_cancel *cancel;
    ce_status wanted;
    uint64_t wait_ms;
    struct gate entered;
};

static void *follow(void *argument) {
    struct following *following = (struct following *)argument;
    ce_metas *metas = NULL;
    gate_open(&following->entered);
    if (IS(following->wanted, ce_metas_follow(following->world->url, NULL, following->known, following->wait_ms, following->cancel, &metas))) {
        CHECK((metas != NULL) == (following->wanted == CE_OK));
        CHECK(ce_metas_tensor_count(metas) == (metas == NULL ? 0 : MODEL_TENSORS));
    }
    OK(ce_metas_destroy(metas));
    return NULL;
}

static void followed(struct world *world) {
    struct following following = { .world = world, .wanted = CE_OK, .wait_ms = CE_FOREVER, .entered = GATE_INIT };
    ce_metas *fetched;
    ce_metas *none;
    MUST(ce_metas_follow(world->url, NULL, NULL, CE_FOREVER, NULL, &following.known));      /* what there is comes at once */
    IS(CE_E_PENDING, ce_metas_follow(world->url, NULL, following.known, 0, NULL, &none));
    IS(CE_E_PENDING, ce_metas_follow(world->url, NULL, following.known, 1, NULL, &none));
    pthread_t thread = thread_start(follow, &following);
    gate_wait(&following.entered);
    replace(world->holder, world->path[1]);
    thread_end(thread);
    OK(ce_metas_destroy(following.known));

    MUST(ce_metas_follow(world->url, NULL, NULL, 0, NULL, &following.known));
    MUST(ce_cancel_create(&following.cancel));
    following.wanted = CE_E_CANCELLED;
    thread = thread_start(follow, &following);
    OK(ce_cancel_trigger(following.cancel));
    thread_end(thread);
    OK(ce_cancel_destroy(following.cancel));

    MUST(ce_metas_fetch(world->url, NULL, NULL, &fetched));
    IS(CE_E_ARGUMENT, ce_metas_follow(world->url, NULL, fetched, 0, NULL, &none));
    OK(ce_metas_destroy(fetched));
    OK(ce_server_unregister(world->holder, "m"));
    IS(CE_E_NOT_FOUND, ce_metas_follow(world->url, NULL, following.known, CE_FOREVER, NULL, &none));
    OK(ce_metas_destroy(following.known));
    replace(world->holder, world->path[0]);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void leases(struct world *world) {
    const uint64_t grace_ms = 300;
    ce_server_options server_options = { .struct_size = sizeof server_options, .flags = CE_SERVER_REQUIRE_LEASE, .grace_time_ms = grace_ms };
    char url[256];
    ce_server *server = server_make(&server_options, world->path[0], url, sizeof url);
    ce_join_options options = options_of(url, CE_TO_NULL);
    OK(ce_join_destroy(joined(world->joiner, &options)));      /* joins have one */
    double start = seconds();
    OK(ce_server_unregister(server, "m"));
    CHECK(seconds() - start >= (double)grace_ms / 1000 * 0.9);
    OK(ce_server_destroy(server));
    server_options.plain_peers = "all";
    server = NULL;
    IS(CE_E_ARGUMENT, ce_server_create(&server_options, &server));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    struct world world;
    test_patience(60);
    world_make(&world, argv[1]);
    replaced_while_it_is_read(&world);
    joined_again_with_what_is_here(&world);
    replicas_of_which_some_are_dead(&world);
    asked_again(&world);
    followed(&world);
    leases(&world);
    OK(ce_server_destroy(world.joiner));
    OK(ce_server_destroy(world.holder));
    model_free(&world.model[0]);
    model_free(&world.model[1]);
    return test_end("generations");
}
