/* Memory that is kept for the next checkpoint, chosen for one registration.
 * usage: pools DIRECTORY   an empty directory */
#include "test.h"

/* What /proc/self/maps says of an address: 0 nothing, 1 memory without a name, 2 a file. */
enum { NOTHING = 0, NAMELESS = 1, OF_A_FILE = 2 };

static int mapped(const void *address) {
    char line[4096];
    int found = NOTHING;
    FILE *maps = fopen("/proc/self/maps", "r");
    if (maps == NULL) {
        perror("/proc/self/maps");
        exit(1);
    }
    while (fgets(line, sizeof line, maps) != NULL) {
        uintptr_t start, end;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &start, &end) == 2 && (uintptr_t)address >= start && (uintptr_t)address < end) {
            found = strchr(line, '/') == NULL ? NAMELESS : OF_A_FILE;
        }
    }
    fclose(maps);
    return found;
}

static const void *registered(ce_server *server, const char *name, const char *path, const ce_register_options *options, const struct model *model) {
    ce_checkpoint *checkpoint;
    ce_tensor tensor;
    MUST(ce_server_register_files_with(server, name, &path, 1, options, NULL));
    MUST(ce_server_checkpoint(server, name, &checkpoint));
    for (uint64_t i = 0; i < ce_checkpoint_tensor_count(checkpoint); i++) {
        OK(ce_checkpoint_tensor(checkpoint, i, &tensor));
        CHECK(model_has(model, &tensor));
    }
    OK(ce_checkpoint_find(checkpoint, "layer.0.weight", &tensor));
    OK(ce_checkpoint_destroy(checkpoint));
    return tensor.data;
}

static void chosen(const char *path, const struct model *model) {
    ce_server *server;
    ce_server_options options = { .struct_size = sizeof options };
    MUST(ce_server_create(&options, &server));
    ce_register_options pooled = { .struct_size = sizeof pooled, .shared_pool = CE_POOL_ON };
    ce_register_options as_server = { .struct_size = sizeof as_server };

    const void *kept = registered(server, "one", path, &pooled, model);
    CHECK(mapped(kept) == NAMELESS);
    const void *file = registered(server, "file", path, NULL, model);
    CHECK(mapped(file) == OF_A_FILE);
    const void *file_too = registered(server, "file too", path, &as_server, model);
    CHECK(mapped(file_too) == OF_A_FILE);
    OK(ce_server_unregister(server, "one"));
    CHECK(mapped(kept) == NAMELESS);               /* for the next one, which lies in it */
    CHECK(registered(server, "two", path, &pooled, model) == kept);
    OK(ce_server_unregister(server, "two"));
    OK(ce_server_unregister_force(server, "file"));        /* it is not of the pool */
    CHECK(registered(server, "two", path, &pooled, model) == kept);
    OK(ce_server_unregister_force(server, "two"));
    CHECK(mapped(kept) == NOTHING);
    IS(CE_E_NOT_FOUND, ce_server_unregister_force(server, "two"));

    /* replace and the pool together */
    pooled.replace = 1;
    CHECK(mapped(registered(server, "file too", path, &pooled, model)) == NAMELESS);
    pooled.replace = 0;
    IS(CE_E_ALREADY_EXISTS, ce_server_register_files_with(server, "file too", &path, 1, &pooled, NULL));
    OK(ce_server_destroy(server));

    options.flags = CE_SERVER_SHARED_POOL;
    MUST(ce_server_create(&options, &server));
    CHECK(mapped(registered(server, "of the server", path, &as_server, model)) == NAMELESS);
    as_server.shared_pool = CE_POOL_OFF;
    CHECK(mapped(registered(server, "not", path, &as_server, model)) == OF_A_FILE);
    OK(ce_server_destroy(server));
}

static void bad_input(struct pair *pair, const char *path) {
    ce_register_options options = { .struct_size = sizeof options, .shared_pool = CE_POOL_OFF + 1 };
    IS(CE_E_ARGUMENT, ce_server_register_files_with(pair->holder, "x", &path, 1, &options, NULL));
    options.shared_pool = CE_POOL_ON;
    options.struct_size = sizeof(size_t);
    IS(CE_E_ARGUMENT, ce_server_register_files_with(pair->holder, "x", &path, 1, &options, NULL));
    options.struct_size = sizeof options;
    IS(CE_E_ARGUMENT, ce_server_register_files_with(pair->holder, NULL, &path, 1, &options, NULL));
    IS(CE_E_ARGUMENT, ce_server_register_files_with(pair->holder, "x", NULL, 1, &options, NULL));
    IS(CE_E_ARGUMENT, ce_server_register_files_with(pair->holder, "x", &path, 0, &options, NULL));
    IS(CE_E_HANDLE, ce_server_register_files_with(NULL, "x", &path, 1, &options, NULL));
    IS(CE_E_HANDLE, ce_server_register_files_with(pair->holder, "x", &path, 1, &options, (ce_cancel *)pair->holder));
    ce_cancel *cancel;
    MUST(ce_cancel_create(&cancel));
    OK(ce_cancel_trigger(cancel));
    IS(CE_E_CANCELLED, ce_server_register_files_with(pair->holder, "x", &path, 1, &options, cancel));
    OK(ce_cancel_destroy(cancel));
    IS(CE_E_NOT_FOUND, ce_server_unregister(pair->holder, "x"));      /* nothing is left of any */
    IS(CE_E_HANDLE, ce_server_unregister_force(NULL, "m"));
    IS(CE_E_ARGUMENT, ce_server_unregister_force(pair->holder, NULL));
    IS(CE_E_NOT_FOUND, ce_server_unregister_force(pair->holder, "x"));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    struct pair pair;
    char path[1024];
    ce_join *join;
    snprintf(path, sizeof path, "%s/model", argv[1]);
    test_patience(60);
    pair_make(&pair);
    ce_join_options options = pair_options(&pair, CE_TO_DIRECTORY);
    options.directory = path;
    MUST(ce_join_start(pair.joiner, &options, &join));
    MUST(ce_join_wait(join, CE_FOREVER));
    OK(ce_join_destroy(join));
    chosen(path, &pair.model);
    bad_input(&pair, path);
    pair_free(&pair);
    return test_end("pools");
}
