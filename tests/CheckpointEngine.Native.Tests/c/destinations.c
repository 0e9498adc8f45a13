/* Every destination of a join, bit for bit, within one process.
 * usage: destinations DIRECTORY   a directory that is not there yet */
#include "test.h"

static void report_is(ce_join *join, const struct pair *pair, uint32_t buckets_at_least) {
    ce_join_report report = { .struct_size = sizeof report };
    ce_join_progress progress = { .struct_size = sizeof progress };
    uint64_t bytes = 0;
    for (int i = 0; i < MODEL_TENSORS; i++) {
        bytes += pair->model.tensors[i].size_bytes;
    }
    OK(ce_join_get_report(join, &report));
    CHECK(report.bytes == bytes);
    CHECK(report.tensors == MODEL_TENSORS);
    CHECK(report.verified == 1);
    CHECK(report.unverified_reason == NULL);
    CHECK(report.seconds > 0 && report.transfer_seconds >= 0 && report.plan_seconds >= 0);
    CHECK(report.buckets >= buckets_at_least);
    OK(ce_join_poll(join, &progress));
    CHECK(progress.state == CE_JOIN_DONE);
    CHECK(progress.phase == CE_PHASE_ENDED);
    CHECK(progress.bytes_total >= bytes && progress.bytes_done == progress.bytes_total);
    CHECK(progress.buckets_done == report.buckets);

    char warnings[4096];
    size_t size = sizeof warnings;
    OK(ce_join_warnings(join, warnings, &size));
    CHECK(size == strlen(warnings) + 1);
}

static void all_are_there(ce_checkpoint *checkpoint, const struct model *model) {
    ce_tensor tensor;
    uint64_t bytes = 0;
    CHECK(ce_checkpoint_tensor_count(checkpoint) == MODEL_TENSORS);
    for (uint64_t i = 0; i < ce_checkpoint_tensor_count(checkpoint); i++) {
        if (OK(ce_checkpoint_tensor(checkpoint, i, &tensor))) {
            CHECK(model_has(model, &tensor));
            bytes += tensor.size_bytes;
        }
    }
    for (int i = 0; i < MODEL_TENSORS; i++) {
        if (OK(ce_checkpoint_find(checkpoint, model->tensors[i].name, &tensor))) {
            CHECK(model_has(model, &tensor));
        }
    }
    CHECK(ce_checkpoint_size(checkpoint) == bytes);
    IS(CE_E_NOT_FOUND, ce_checkpoint_find(checkpoint, "no such", &tensor));
    IS(CE_E_ARGUMENT, ce_checkpoint_tensor(checkpoint, MODEL_TENSORS, &tensor));
}

static void to_memory(struct pair *pair) {
    ce_join_options options = pair_options(pair, CE_TO_MEMORY);
    options.checkpoint_name = "copy";
    ce_join *join;
    ce_checkpoint *checkpoint;
    ce_checkpoint *held;
    MUST(ce_join_start(pair->joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    OK(ce_join_wait(join, 0));
    report_is(join, pair, 0);
    MUST(ce_join_checkpoint(join, &checkpoint));
    MUST(ce_server_checkpoint(pair->joiner, "copy", &held));
    all_are_there(held, &pair->model);
    OK(ce_checkpoint_destroy(held));
    OK(ce_join_destroy(join));
    OK(ce_server_unregister(pair->joiner, "copy"));
    all_are_there(checkpoint, &pair->model);      /* the handle keeps the memory */
    OK(ce_checkpoint_destroy(checkpoint));
}

static void to_memory_by_metas_and_patterns(struct pair *pair) {
    ce_join_options options = pair_options(pair, CE_TO_MEMORY);
    const char *include[] = { "layer.*", "embed.*" };
    const char *exclude[] = { "*.scale", "*empty" };
    ce_metas *metas;
    ce_join *join;
    ce_checkpoint *checkpoint;
    ce_tensor tensor;
    MUST(ce_server_metas(pair->holder, "m", &metas));
    options.metas_url = NULL;
    options.metas = metas;
    options.include = include;
    options.include_count = 2;
    options.exclude = exclude;
    options.exclude_count = 2;
    options.verify = CE_VERIFY_REQUIRE;
    options.lanes = 2;
    options.transport = CE_TRANSPORT_TCP;
    options.timeout_ms = 60000;
    options.stall_timeout_ms = 30000;
    MUST(ce_join_start(pair->joiner, &options, &join));
    OK(ce_metas_destroy(metas));                  /* not needed any more */
    MUST(ce_join_wait(join, CE_FOREVER));
    MUST(ce_server_checkpoint(pair->joiner, "join-checkpoint", &checkpoint));
    CHECK(ce_checkpoint_tensor_count(checkpoint) == 3);
    for (uint64_t i = 0; i < 3; i++) {
        OK(ce_checkpoint_tensor(checkpoint, i, &tensor));
        CHECK(model_has(&pair->model, &tensor));
    }
    IS(CE_E_NOT_FOUND, ce_checkpoint_find(checkpoint, "layer.0.scale", &tensor));
    OK(ce_join_destroy(join));
    OK(ce_checkpoint_destroy(checkpoint));
    OK(ce_server_unregister(pair->joiner, "join-checkpoint"));
}

static void to_tensors(struct pair *pair) {
    struct model own;
    model_make(&own, 99);
    /* Destinations of their own place each: the model's overlap. */
    size_t at = 0;
    own.memory = (unsigned char *)realloc(own.memory, 2 * MODEL_BYTES);
    memset(own.memory, 0xEE, 2 * MODEL_BYTES);
    for (int i = 0; i < MODEL_TENSORS; i++) {
        own.tensors[i].data = own.tensors[i].size_bytes == 0 ? NULL : own.memory + at + 64;
        at += (own.tensors[i].size_bytes + 127) / 64 * 64;
    }
    own.tensors[0].size_bytes = 0;                /* to be computed */
    ce_join_options options = pair_options(pair, CE_TO_TENSORS);
    options.tensors = own.tensors;
    options.tensor_count = MODEL_TENSORS;
    ce_join *join;
    MUST(ce_join_start(pair->joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    report_is(join, pair, 0);
    own.tensors[0].size_bytes = 131072;
    for (int i = 0; i < MODEL_TENSORS; i++) {
        CHECK(model_has(&pair->model, &own.tensors[i]));
        unsigned char *data = (unsigned char *)own.tensors[i].data;
        if (data != NULL) {
            CHECK(data[-1] == 0xEE && data[own.tensors[i].size_bytes] == 0xEE);      /* and not a byte beside them */
        }
    }
    ce_checkpoint *none;
    IS(CE_E_STATE, ce_join_checkpoint(join, &none));
    OK(ce_join_destroy(join));

    /* Only one, and only that is read. */
    memset(own.memory, 0, 2 * MODEL_BYTES);
    options.tensors = &own.tensors[2];
    options.tensor_count = 1;
    MUST(ce_join_start(pair->joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    ce_join_report report = { .struct_size = sizeof report };
    OK(ce_join_get_report(join, &report));
    CHECK(report.tensors == 1 && report.bytes == 300001);
    CHECK(model_has(&pair->model, &own.tensors[2]));
    OK(ce_join_destroy(join));

    /* What does not fit is said before anything is overwritten. */
    ce_tensor wrong = own.tensors[2];
    wrong.dtype = CE_DTYPE_I8;
    options.tensors = &wrong;
    MUST(ce_join_start(pair->joiner, &options, &join));
    IS(CE_E_WRONG_SHAPE, ce_join_wait(join, CE_FOREVER));
    OK(ce_join_destroy(join));
    const int64_t other_shape[] = { 1, 300001 };
    wrong = own.tensors[2];
    wrong.shape = other_shape;
    wrong.rank = 2;
    MUST(ce_join_start(pair->joiner, &options, &join));
    IS(CE_E_WRONG_SHAPE, ce_join_wait(join, CE_FOREVER));
    OK(ce_join_destroy(join));
    wrong = own.tensors[2];
    wrong.name = "not there";
    MUST(ce_join_start(pair->joiner, &options, &join));
    IS(CE_E_NOT_FOUND, ce_join_wait(join, CE_FOREVER));
    OK(ce_join_destroy(join));
    model_free(&own);
}

struct consumer {
    const struct model *model;
    uint64_t next;
    int seen[MODEL_TENSORS];
    pthread_t thread;
};

static int consume(void *user, const ce_bucket *bucket) {
    struct consumer *consumer = (struct consumer *)user;
    CHECK(bucket->index == consumer->next++);
    CHECK(bucket->count > bucket->index);
    CHECK(bucket->index == 0 || pthread_equal(consumer->thread, pthread_self()));
    consumer->thread = pthread_self();
    for (uint64_t i = 0; i < bucket->tensor_count; i++) {
        const ce_tensor *tensor = &bucket->tensors[i];
        const unsigned char *start = (const unsigned char *)bucket->data;
        CHECK(model_has(consumer->model, tensor));
        if (tensor->size_bytes != 0) {
            const unsigned char *data = (const unsigned char *)tensor->data;
            CHECK(data >= start && data + tensor->size_bytes <= start + bucket->size_bytes);
        }
        for (int m = 0; m < MODEL_TENSORS; m++) {
            consumer->seen[m] += strcmp(consumer->model->tensors[m].name, tensor->name) == 0;
        }
    }
    memset(bucket->data, 0x55, bucket->size_bytes);      /* it may be changed */
    return 0;
}

static void to_buckets(struct pair *pair, uint64_t bucket_bytes, uint64_t least) {
    struct consumer consumer = { .model = &pair->model };
    ce_join_options options = pair_options(pair, CE_TO_BUCKETS);
    options.on_bucket = consume;
    options.user = &consumer;
    options.bucket_bytes = bucket_bytes;
    ce_join *join;
    MUST(ce_join_start(pair->joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    report_is(join, pair, (uint32_t)least);
    CHECK(consumer.next >= least);
    for (int m = 0; m < MODEL_TENSORS; m++) {
        CHECK(consumer.seen[m] == 1);
    }
    OK(ce_join_destroy(join));
}

static void to_directory(struct pair *pair, const char *directory) {
    ce_join_options options = pair_options(pair, CE_TO_DIRECTORY);
    options.directory = directory;
    ce_join *join;
    ce_checkpoint *checkpoint;
    MUST(ce_join_start(pair->joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    report_is(join, pair, 0);
    OK(ce_join_destroy(join));
    MUST(ce_server_register_files(pair->holder, "from files", &directory, 1, NULL));
    MUST(ce_server_checkpoint(pair->holder, "from files", &checkpoint));
    all_are_there(checkpoint, &pair->model);
    OK(ce_server_unregister(pair->holder, "from files"));
    all_are_there(checkpoint, &pair->model);
    OK(ce_checkpoint_destroy(checkpoint));
}

static void to_nowhere(struct pair *pair) {
    ce_join_options options = pair_options(pair, CE_TO_NULL);
    ce_join *join;
    ce_join_progress progress = { .struct_size = sizeof progress };
    MUST(ce_join_start(pair->joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    OK(ce_join_poll(join, &progress));
    CHECK(progress.state == CE_JOIN_DONE);
    OK(ce_join_destroy(join));

    options.verify = CE_VERIFY_OFF;
    MUST(ce_join_start(pair->joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    ce_join_report report = { .struct_size = sizeof report };
    OK(ce_join_get_report(join, &report));
    CHECK(report.verified == 0);
    CHECK(report.unverified_reason != NULL && strcmp(report.unverified_reason, "disabled") == 0);
    OK(ce_join_destroy(join));
}

/* What a join brought is served on by a server that listens. */
static void passed_on(struct pair *pair) {
    ce_server *middle;
    ce_join *join;
    ce_checkpoint *checkpoint;
    struct pair onward = *pair;
    MUST(ce_server_create(NULL, &middle));
    ce_join_options options = pair_options(pair, CE_TO_MEMORY);
    options.checkpoint_name = "onward";
    MUST(ce_join_start(middle, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    OK(ce_join_destroy(join));
    size_t size = sizeof onward.url;
    MUST(ce_server_peer_url(middle, onward.url, &size));
    strcat(onward.url, "/onward");
    to_memory(&onward);
    MUST(ce_server_checkpoint(middle, "onward", &checkpoint));
    OK(ce_server_destroy(middle));
    all_are_there(checkpoint, &pair->model);      /* the handle outlives its server */
    OK(ce_checkpoint_destroy(checkpoint));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    struct pair pair;
    test_patience(60);
    pair_make(&pair);
    to_memory(&pair);
    to_memory_by_metas_and_patterns(&pair);
    to_tensors(&pair);
    to_buckets(&pair, 0, 1);
    to_buckets(&pair, 1, 3);
    to_directory(&pair, argv[1]);
    to_nowhere(&pair);
    passed_on(&pair);
    pair_free(&pair);
    return test_end("destinations");
}
