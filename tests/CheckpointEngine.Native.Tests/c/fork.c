/* fork(2): in the child every call says CE_E_FORKED (or has nothing to do with threads), and the parent goes on. */
#include "test.h"

#include <sys/wait.h>

/* Runs in the child; returns the number of the first check that failed, or 0. It must not use stdio's buffers of the parent. */
static int child(struct pair *pair, ce_metas *metas, ce_checkpoint *checkpoint, ce_join *join, ce_cancel *cancel) {
    ce_server *server = NULL;
    ce_metas *other_metas = NULL;
    ce_checkpoint *other_checkpoint = NULL;
    ce_join *other_join = NULL;
    ce_cancel *other_cancel = NULL;
    ce_join_options options = pair_options(pair, CE_TO_NULL);
    ce_join_progress progress = { .struct_size = sizeof progress };
    ce_join_report report = { .struct_size = sizeof report };
    ce_tensor tensor;
    char text[256];
    size_t size = sizeof text;
    const void *data;
    const char *path = "/nowhere";
    const ce_status results[] = {
        ce_server_create(NULL, &server),
        ce_join_start(pair->joiner, &options, &other_join),
        ce_join_wait(join, CE_FOREVER),
        ce_join_wait(join, 0),
        ce_join_poll(join, &progress),
        ce_join_cancel(join),
        ce_join_get_report(join, &report),
        ce_join_warnings(join, text, &size),
        ce_join_checkpoint(join, &other_checkpoint),
        ce_join_destroy(join),
        ce_metas_parse("{}", 2, &other_metas),
        ce_metas_fetch(pair->url, NULL, NULL, &other_metas),
        ce_metas_write(metas, CE_METAS_JSON, &data, &size),
        ce_metas_tensor(metas, 0, &tensor, NULL),
        ce_metas_owner(metas, 0, NULL, NULL, NULL),
        ce_metas_destroy(metas),
        ce_checkpoint_tensor(checkpoint, 0, &tensor),
        ce_checkpoint_find(checkpoint, "layer.0.scale", &tensor),
        ce_checkpoint_destroy(checkpoint),
        ce_server_peer_url(pair->holder, text, &size),
        ce_server_register_files(pair->holder, "x", &path, 1, NULL),
        ce_server_register_tensors(pair->joiner, "x", pair->model.tensors, 1),
        ce_server_begin_update(pair->holder, "m"),
        ce_server_commit_update(pair->holder, "m"),
        ce_server_unregister(pair->holder, "m"),
        ce_server_metas(pair->holder, "m", &other_metas),
        ce_server_checkpoint(pair->holder, "m", &other_checkpoint),
        ce_server_destroy(pair->holder),
        ce_cancel_create(&other_cancel),
        ce_cancel_trigger(cancel),
        ce_cancel_destroy(cancel),
    };
    for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
        if (results[i] != CE_E_FORKED) {
            return 100 + (int)i;
        }
    }
    if (server != NULL || other_join != NULL || other_metas != NULL || other_checkpoint != NULL || other_cancel != NULL) {
        return 98;
    }
    if (ce_abi_version() != ((uint32_t)CE_ABI_MAJOR << 8 | CE_ABI_MINOR) || ce_version()[0] == 0 || strcmp(ce_status_name(CE_E_FORKED), "CE_E_FORKED") != 0) {
        return 99;
    }
    return 0;
}

int main(void) {
    struct pair pair;
    ce_join *join;
    ce_metas *metas;
    ce_checkpoint *checkpoint;
    ce_cancel *cancel;
    test_patience(60);
    pair_make(&pair);
    ce_join_options options = pair_options(&pair, CE_TO_NULL);
    MUST(ce_join_start(pair.joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    MUST(ce_server_metas(pair.holder, "m", &metas));
    MUST(ce_server_checkpoint(pair.holder, "m", &checkpoint));
    MUST(ce_cancel_create(&cancel));
    for (int round = 0; round < 3; round++) {
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            alarm(10);
            _exit(child(&pair, metas, checkpoint, join, cancel));
        }
        int status = 0;
        CHECK(waitpid(pid, &status, 0) == pid);
        if (!CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
            fprintf(stderr, "    the child ended with %s %d\n", WIFEXITED(status) ? "status" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        }

        /* and the parent goes on as if nothing had been */
        ce_join *again;
        MUST(ce_join_start(pair.joiner, &options, &again));
        OK(ce_join_wait(again, CE_FOREVER));
        OK(ce_join_destroy(again));
    }
    /* a child that calls exec is a process like any other */
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    OK(ce_join_destroy(join));
    OK(ce_metas_destroy(metas));
    OK(ce_checkpoint_destroy(checkpoint));
    OK(ce_cancel_destroy(cancel));
    pair_free(&pair);
    return test_end("fork");
}
