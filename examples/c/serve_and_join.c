/* Serve a checkpoint in one process and join it in another.
 *
 *     cc -I artifacts/include examples/c/serve_and_join.c -L artifacts/lib -lcheckpoint_engine -Wl,-rpath,$PWD/artifacts/lib -o serve_and_join
 *     ./serve_and_join serve /models/qwen          prints ce://127.0.0.1:PORT/model, serves until its standard input ends
 *     ./serve_and_join join ce://127.0.0.1:PORT/model
 *
 * Exit status: 0 done, 1 failed (a line on stderr says why), 2 wrong usage. */
#include <checkpoint_engine.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int failed(const char *what) {
    char text[1024] = "";
    size_t size = sizeof text;
    ce_last_error(text, &size);
    fprintf(stderr, "%s: %s\n", what, text);
    return 1;
}

static int serve(const char *path) {
    ce_server_options options = { sizeof options };
    ce_server *server;
    char url[256];
    size_t size = sizeof url;
    if (ce_server_create(&options, &server) != CE_OK || ce_server_register_files(server, "model", &path, 1, NULL) != CE_OK
        || ce_server_peer_url(server, url, &size) != CE_OK) {
        return failed(path);
    }
    printf("%s/model\n", url);
    fflush(stdout);
    while (getchar() != EOF) {
    }
    return ce_server_destroy(server) == CE_OK ? 0 : failed("destroy");
}

static int join(const char *url) {
    ce_server_options options = { sizeof options };
    ce_join_options join_options = { sizeof join_options };
    ce_join_report report = { sizeof report };
    ce_server *server;
    ce_join *join;
    ce_checkpoint *checkpoint;
    options.flags = CE_SERVER_JOIN_ONLY;
    join_options.metas_url = url;
    join_options.verify = CE_VERIFY_REQUIRE;         /* what is mapped where its owner has it is read through, too */
    if (ce_server_create(&options, &server) != CE_OK || ce_join_start(server, &join_options, &join) != CE_OK || ce_join_wait(join, CE_FOREVER) != CE_OK
        || ce_join_get_report(join, &report) != CE_OK || ce_join_checkpoint(join, &checkpoint) != CE_OK) {
        return failed(url);
    }
    for (uint64_t i = 0; i < ce_checkpoint_tensor_count(checkpoint); i++) {
        ce_tensor tensor;
        if (ce_checkpoint_tensor(checkpoint, i, &tensor) != CE_OK) {
            return failed("tensor");
        }
        printf("%-8s %12" PRIu64 "  %s\n", ce_dtype_name(tensor.dtype), tensor.size_bytes, tensor.name);
    }
    printf("%" PRIu64 " tensors, %" PRIu64 " bytes in %.3f s, %s\n", report.tensors, report.bytes, report.seconds,
           report.verified ? "every byte verified" : report.unverified_reason);
    ce_join_destroy(join);
    ce_checkpoint_destroy(checkpoint);
    return ce_server_destroy(server) == CE_OK ? 0 : failed("destroy");
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "serve") == 0) {
        return serve(argv[2]);
    }
    if (argc == 3 && strcmp(argv[1], "join") == 0) {
        return join(argv[2]);
    }
    fprintf(stderr, "usage: %s serve PATH | join URL\n", argv[0]);
    return 2;
}
