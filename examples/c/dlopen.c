/* Use the library without linking it: a plug-in that works where it is and says so where it is not.
 *
 *     cc -I artifacts/include examples/c/dlopen.c -ldl -o dlopen
 *     ./dlopen artifacts/lib/libcheckpoint_engine.so.0 /models/qwen
 *
 * Prints the library's version and the tensors of the checkpoint. Exit status: 0 done, 1 failed, 2 wrong usage, 3 there is no such library, or
 * it lacks what is needed. */
#include <checkpoint_engine.h>

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>

/* The functions that this program needs, with the types that the header gives them. */
#define NEEDED(X)                                                                                                                                    \
    X(ce_abi_version)                                                                                                                                \
    X(ce_version)                                                                                                                                    \
    X(ce_last_error)                                                                                                                                 \
    X(ce_server_create)                                                                                                                              \
    X(ce_server_register_files)                                                                                                                      \
    X(ce_server_checkpoint)                                                                                                                          \
    X(ce_server_destroy)                                                                                                                             \
    X(ce_checkpoint_tensor_count)                                                                                                                    \
    X(ce_checkpoint_tensor)                                                                                                                          \
    X(ce_checkpoint_destroy)

static struct {
#define MEMBER(name) __typeof__(&name) name;
    NEEDED(MEMBER)
} engine;

static int load(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 0;
    }
#define FIND(name)                                                                                                                                   \
    if ((*(void **)&engine.name = dlsym(library, #name)) == NULL) {                                                                                  \
        fprintf(stderr, "%s\n", dlerror());                                                                                                          \
        return 0;                                                                                                                                    \
    }
    NEEDED(FIND)
    if (engine.ce_abi_version() >> 8 != CE_ABI_MAJOR) {
        fprintf(stderr, "%s has another interface than the header\n", path);
        return 0;
    }
    return 1;
}

static int failed(const char *what) {
    char text[1024] = "";
    size_t size = sizeof text;
    engine.ce_last_error(text, &size);
    fprintf(stderr, "%s: %s\n", what, text);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s LIBRARY CHECKPOINT\n", argv[0]);
        return 2;
    }
    if (!load(argv[1])) {
        return 3;
    }
    const char *path = argv[2];
    ce_server_options options = { sizeof options };
    ce_server *server;
    ce_checkpoint *checkpoint;
    options.flags = CE_SERVER_JOIN_ONLY;      /* nobody is to read what it holds */
    if (engine.ce_server_create(&options, &server) != CE_OK || engine.ce_server_register_files(server, "model", &path, 1, NULL) != CE_OK
        || engine.ce_server_checkpoint(server, "model", &checkpoint) != CE_OK) {
        return failed(path);
    }
    printf("library %s\n", engine.ce_version());
    for (uint64_t i = 0; i < engine.ce_checkpoint_tensor_count(checkpoint); i++) {
        ce_tensor tensor;
        if (engine.ce_checkpoint_tensor(checkpoint, i, &tensor) != CE_OK) {
            return failed("tensor");
        }
        printf("%12" PRIu64 "  %s\n", tensor.size_bytes, tensor.name);
    }
    engine.ce_checkpoint_destroy(checkpoint);
    return engine.ce_server_destroy(server) == CE_OK ? 0 : failed("destroy");
}
