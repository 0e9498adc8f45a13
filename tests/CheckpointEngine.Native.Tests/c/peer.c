/* One end of a transfer, told what to do by the test. Lines on stdout, commands on stdin; a token in CE_PEER_TOKEN, joins over TCP
 * alone with CE_PEER_TCP.
 *
 * peer serve-files NAME PATH...
 * peer serve-tensors NAME MANIFEST BYTES      caller's tensors in place, as tensors.h reads them
 *     prints "serving URL"; then for each line on stdin - begin, flip (invert all bytes), commit, unregister, quit - "ok COMMAND" or "STATUS TEXT"
 * peer join memory|tensors|buckets|null URL OUTPUT [MANIFEST BYTES]
 * peer join directory URL DIRECTORY
 *     prints "joined VERIFIED TENSORS BYTES BUCKETS PLANE attached|copied", or "STATUS TEXT"; writes the tensors to OUTPUT, as tensors.h does
 * peer join-held URL OUTPUT
 *     as buckets, but prints "held" in the first bucket and waits for a line on stdin */
#include "tensors.h"
#include "test.h"

static int say(ce_status status, const char *command) {
    if (status == CE_OK) {
        printf("ok %s\n", command);
    } else {
        char text[512] = "";
        size_t size = sizeof text;
        ce_last_error(text, &size);
        printf("%s %s\n", ce_status_name(status), text);
    }
    fflush(stdout);
    return status == CE_OK ? 0 : 1;
}

static int serve(ce_server *server, const char *name, struct tensors *tensors) {
    char url[256];
    size_t size = sizeof url;
    char line[64];
    MUST(ce_server_peer_url(server, url, &size));
    printf("serving %s/%s\n", url, name);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "begin") == 0) {
            say(ce_server_begin_update(server, name), line);
        } else if (strcmp(line, "flip") == 0) {
            for (size_t i = 0; i < tensors->bytes_size; i++) {
                tensors->bytes[i] = (unsigned char)~tensors->bytes[i];
            }
            say(CE_OK, line);
        } else if (strcmp(line, "commit") == 0) {
            say(ce_server_commit_update(server, name), line);
        } else if (strcmp(line, "unregister") == 0) {
            ce_status status = ce_server_unregister(server, name);
            if (status == CE_OK && tensors != NULL && tensors->bytes != NULL) {
                memset(tensors->bytes, 0, tensors->bytes_size);      /* it is the caller's again, at once */
            }
            say(status, line);
        } else if (strcmp(line, "quit") == 0) {
            break;
        }
    }
    OK(ce_server_destroy(server));
    return test_failures == 0 ? 0 : 1;
}

struct sink {
    FILE *output;
    int hold;
};

static int write_bucket(void *user, const ce_bucket *bucket) {
    struct sink *sink = (struct sink *)user;
    if (sink->hold) {
        char line[64];
        sink->hold = 0;
        puts("held");
        fflush(stdout);
        if (fgets(line, sizeof line, stdin) == NULL) {
            return 1;
        }
    }
    for (uint64_t i = 0; i < bucket->tensor_count; i++) {
        tensors_write(sink->output, &bucket->tensors[i]);
    }
    return 0;
}

static int join_and_write(ce_server *server, const char *to, const char *url, const char *output, struct tensors *tensors) {
    struct sink sink = { NULL, strcmp(to, "held") == 0 };
    ce_join_options options = { .struct_size = sizeof options, .metas_url = url, .verify = CE_VERIFY_REQUIRE };
    options.transport = getenv("CE_PEER_TCP") != NULL ? CE_TRANSPORT_TCP : CE_TRANSPORT_AUTO;
    ce_join *join;
    if (strcmp(to, "directory") == 0) {
        options.destination = CE_TO_DIRECTORY;
        options.directory = output;
    } else {
        sink.output = fopen(output, "wb");
        if (sink.output == NULL) {
            perror(output);
            return 1;
        }
        if (strcmp(to, "tensors") == 0) {
            options.destination = CE_TO_TENSORS;
            options.tensors = tensors->all;
            options.tensor_count = tensors->count;
        } else if (strcmp(to, "buckets") == 0 || sink.hold) {
            options.destination = CE_TO_BUCKETS;
            options.on_bucket = write_bucket;
            options.user = &sink;
            options.bucket_bytes = sink.hold ? 1 : 100000;
        } else if (strcmp(to, "null") == 0) {
            options.destination = CE_TO_NULL;
        }
    }
    MUST(ce_join_start(server, &options, &join));
    ce_status status = ce_join_wait(join, CE_FOREVER);
    if (status == CE_OK) {
        ce_join_report report = { .struct_size = sizeof report };
        MUST(ce_join_get_report(join, &report));
        if (options.destination == CE_TO_MEMORY) {
            ce_checkpoint *checkpoint;
            MUST(ce_join_checkpoint(join, &checkpoint));
            for (uint64_t i = 0; i < ce_checkpoint_tensor_count(checkpoint); i++) {
                ce_tensor tensor;
                OK(ce_checkpoint_tensor(checkpoint, i, &tensor));
                tensors_write(sink.output, &tensor);
            }
            OK(ce_checkpoint_destroy(checkpoint));
        }
        if (options.destination == CE_TO_TENSORS) {
            for (size_t i = 0; i < tensors->count; i++) {
                tensors_write(sink.output, &tensors->all[i]);
            }
        }
        char planes[1024];
        size_t planes_size = sizeof planes;
        MUST(ce_join_planes(join, planes, &planes_size));
        CHECK(strncmp(planes, "rank 0 at 127.0.0.1:", 20) == 0);
        CHECK(report.attached_bytes == 0 || report.attached_bytes == report.bytes);
        CHECK((strstr(planes, ", attached") != NULL) == (report.attached_bytes != 0));
        printf("joined %s %" PRIu64 " %" PRIu64 " %" PRIu32 " %s %s\n", report.verified ? "verified" : report.unverified_reason, report.tensors, report.bytes, report.buckets,
               strstr(planes, ": tcp") != NULL ? "tcp" : "local", report.attached_bytes != 0 ? "attached" : "copied");
    } else {
        say(status, "");
    }
    if (sink.output != NULL) {
        fclose(sink.output);
    }
    OK(ce_join_destroy(join));
    OK(ce_server_destroy(server));
    return status == CE_OK && test_failures == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    struct tensors tensors = { 0 };
    ce_server_options options = { .struct_size = sizeof options, .drain_timeout_ms = 5000 };
    ce_server *server;
    int result = 2;
    test_patience(90);
    options.token = getenv("CE_PEER_TOKEN");
    options.flags = strncmp(verb, "join", 4) == 0 ? CE_SERVER_JOIN_ONLY : 0;
    MUST(ce_server_create(&options, &server));
    if (strcmp(verb, "serve-files") == 0 && argc > 3) {
        MUST(ce_server_register_files(server, argv[2], (const char *const *)&argv[3], (size_t)argc - 3, NULL));
        result = serve(server, argv[2], &tensors);
    } else if (strcmp(verb, "serve-tensors") == 0 && argc == 5) {
        tensors_read(&tensors, argv[3], argv[4]);
        MUST(ce_server_register_tensors(server, argv[2], tensors.all, tensors.count));
        result = serve(server, argv[2], &tensors);
    } else if (strcmp(verb, "join") == 0 && (argc == 5 || argc == 7)) {
        if (argc == 7) {
            tensors_read(&tensors, argv[5], argv[6]);
        }
        result = join_and_write(server, argv[2], argv[3], argv[4], &tensors);
    } else if (strcmp(verb, "join-held") == 0 && argc == 4) {
        result = join_and_write(server, "held", argv[2], argv[3], &tensors);
    }
    tensors_free(&tensors);
    return result;
}
