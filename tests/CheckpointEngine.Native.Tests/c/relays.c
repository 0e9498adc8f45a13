/* Joins that read from each other, and how a server stays for those that are in the middle of what it has brought.
 * usage: relays DIRECTORY   an empty directory */
#include "test.h"

enum { JOINERS = 3 };

static ce_join_options relay_options(const struct pair *pair, uint32_t destination) {
    ce_join_options options = pair_options(pair, destination);
    options.transport = CE_TRANSPORT_TCP;
    options.relay = 1;
    return options;
}

static int says(ce_join *join, const char *words) {
    char text[4096];
    size_t size = sizeof text;
    MUST(ce_join_warnings(join, text, &size));
    return strstr(text, words) != NULL;
}

static void has(ce_checkpoint *checkpoint, const struct model *model) {
    ce_tensor tensor;
    CHECK(ce_checkpoint_tensor_count(checkpoint) == MODEL_TENSORS);
    for (uint64_t i = 0; i < ce_checkpoint_tensor_count(checkpoint); i++) {
        OK(ce_checkpoint_tensor(checkpoint, i, &tensor));
        CHECK(model_has(model, &tensor));
    }
    OK(ce_checkpoint_destroy(checkpoint));
}

static ce_join_report report_of(ce_join *join) {
    ce_join_report report = { .struct_size = sizeof report };
    memset(&report.retried_bytes, 0xff, sizeof report.retried_bytes);
    memset(&report.relayed_bytes, 0xff, sizeof report.relayed_bytes);
    OK(ce_join_get_report(join, &report));
    CHECK(report.tensors == MODEL_TENSORS);
    return report;
}

static ce_server *joiner_make(void) {
    ce_server *server;
    ce_server_options options = { .struct_size = sizeof options, .flags = CE_SERVER_JOIN_ONLY };
    MUST(ce_server_create(&options, &server));
    return server;
}

static void everybody_is_done(ce_server *server) {
    uint32_t done = 2;
    OK(ce_server_finish_relays(server, 60000, NULL, &done));
    CHECK(done == 1);
}

static void started_together(struct pair *pair) {
    ce_server *servers[JOINERS];
    ce_join *joins[JOINERS];
    ce_join_options options = relay_options(pair, CE_TO_MEMORY);
    for (int i = 0; i < JOINERS; i++) {
        servers[i] = joiner_make();
        MUST(ce_join_start(servers[i], &options, &joins[i]));
    }
    for (int i = 0; i < JOINERS; i++) {
        ce_checkpoint *checkpoint;
        MUST(ce_join_wait(joins[i], CE_FOREVER));
        ce_join_report report = report_of(joins[i]);
        CHECK(report.verified == 1);
        CHECK(report.relayed_bytes <= MODEL_BYTES);
        CHECK(!says(joins[i], "relay"));           /* it is read together with others, and nobody sent anything wrong */
        MUST(ce_join_checkpoint(joins[i], &checkpoint));
        has(checkpoint, &pair->model);
        OK(ce_join_destroy(joins[i]));
    }
    for (int i = 0; i < JOINERS; i++) {
        everybody_is_done(servers[i]);
        everybody_is_done(servers[i]);             /* nothing is offered any more */
    }
    for (int i = 0; i < JOINERS; i++) {
        OK(ce_server_destroy(servers[i]));
    }
}

/* What one has brought is offered after its end, with the join's handle gone, and read by those that come later, too. */
static void one_after_the_other(struct pair *pair, const char *directory) {
    ce_join *join;
    ce_checkpoint *checkpoint;
    ce_server *other = joiner_make();
    ce_join_options options = relay_options(pair, CE_TO_MEMORY);
    MUST(ce_join_start(pair->joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    CHECK(report_of(join).relayed_bytes == 0);     /* there was nobody */
    OK(ce_join_destroy(join));

    options = relay_options(pair, CE_TO_DIRECTORY);
    options.directory = directory;
    MUST(ce_join_start(other, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    CHECK(report_of(join).verified == 1);
    CHECK(!says(join, "relay"));
    OK(ce_join_destroy(join));
    MUST(ce_server_register_files(other, "copy", &directory, 1, NULL));
    MUST(ce_server_checkpoint(other, "copy", &checkpoint));
    has(checkpoint, &pair->model);

    everybody_is_done(other);
    everybody_is_done(pair->joiner);
    OK(ce_server_unregister(pair->joiner, "join-checkpoint"));
    OK(ce_server_destroy(other));
}

static void reads_alone(struct pair *pair, const ce_join_options *options, const char *reason) {
    ce_join *join;
    MUST(ce_join_start(pair->joiner, options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    CHECK(says(join, reason));
    CHECK(report_of(join).relayed_bytes == 0);
    OK(ce_join_destroy(join));
    everybody_is_done(pair->joiner);
}

static void alone_with_the_reason(struct pair *pair) {
    ce_join_options options = relay_options(pair, CE_TO_NULL);
    reads_alone(pair, &options, "without relay: ");
    options.verify = CE_VERIFY_OFF;
    reads_alone(pair, &options, "without relay: it needs digests");
    options.relay = 0;
    ce_join *join;
    MUST(ce_join_start(pair->joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    CHECK(!says(join, "relay"));
    OK(ce_join_destroy(join));
}

static void bad_input(struct pair *pair) {
    ce_cancel *cancel;
    uint32_t done = 2;
    IS(CE_E_HANDLE, ce_server_finish_relays(NULL, 0, NULL, &done));
    IS(CE_E_HANDLE, ce_server_finish_relays(pair->joiner, 0, (ce_cancel *)(uintptr_t)pair->joiner, &done));
    MUST(ce_cancel_create(&cancel));
    OK(ce_server_finish_relays(pair->joiner, CE_FOREVER, cancel, NULL));
    OK(ce_cancel_trigger(cancel));
    IS(CE_E_CANCELLED, ce_server_finish_relays(pair->joiner, CE_FOREVER, cancel, &done));
    OK(ce_cancel_destroy(cancel));
    CHECK(done == 2);                              /* after an error they are as they were */
    OK(ce_server_finish_relays(pair->joiner, 0, NULL, &done));
    CHECK(done == 1);
    ce_server *gone = joiner_make();
    OK(ce_server_destroy(gone));
    IS(CE_E_HANDLE, ce_server_finish_relays(gone, 0, NULL, &done));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    struct pair pair;
    char directory[1024];
    snprintf(directory, sizeof directory, "%s/copy", argv[1]);
    test_patience(120);
    pair_make(&pair);
    started_together(&pair);
    one_after_the_other(&pair, directory);
    alone_with_the_reason(&pair);
    bad_input(&pair);
    pair_free(&pair);
    return test_end("relays");
}
