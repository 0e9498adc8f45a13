/* Two copies of the library in one process: each serves what the other joins, and neither knows the other's handles.
 * usage: two_copies LIBRARY COPY   two files */
#include "checkpoint_engine.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct library {
    __typeof__(&ce_server_create) server_create;
    __typeof__(&ce_server_destroy) server_destroy;
    __typeof__(&ce_server_register_tensors) server_register_tensors;
    __typeof__(&ce_server_peer_url) server_peer_url;
    __typeof__(&ce_join_start) join_start;
    __typeof__(&ce_join_wait) join_wait;
    __typeof__(&ce_join_destroy) join_destroy;
    __typeof__(&ce_join_checkpoint) join_checkpoint;
    __typeof__(&ce_checkpoint_find) checkpoint_find;
    __typeof__(&ce_checkpoint_destroy) checkpoint_destroy;
    __typeof__(&ce_last_error) last_error;
};

static int failures;

#define CHECK(condition) ((condition) ? (void)0 : (void)(failures++, fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition)))

static void *find(void *handle, const char *name) {
    void *symbol = dlsym(handle, name);
    if (symbol == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return symbol;
}

static struct library load(const char *path) {
    struct library library;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    *(void **)&library.server_create = find(handle, "ce_server_create");
    *(void **)&library.server_destroy = find(handle, "ce_server_destroy");
    *(void **)&library.server_register_tensors = find(handle, "ce_server_register_tensors");
    *(void **)&library.server_peer_url = find(handle, "ce_server_peer_url");
    *(void **)&library.join_start = find(handle, "ce_join_start");
    *(void **)&library.join_wait = find(handle, "ce_join_wait");
    *(void **)&library.join_destroy = find(handle, "ce_join_destroy");
    *(void **)&library.join_checkpoint = find(handle, "ce_join_checkpoint");
    *(void **)&library.checkpoint_find = find(handle, "ce_checkpoint_find");
    *(void **)&library.checkpoint_destroy = find(handle, "ce_checkpoint_destroy");
    *(void **)&library.last_error = find(handle, "ce_last_error");
    dlclose(handle);      /* leaves it loaded: everything below works all the same */
    return library;
}

static void must(const struct library *library, ce_status status, const char *what) {
    if (status != CE_OK) {
        char text[512] = "";
        size_t size = sizeof text;
        library->last_error(text, &size);
        fprintf(stderr, "%s: %d: %s\n", what, (int)status, text);
        exit(1);
    }
}

static void serve_and_join(const struct library *holder, const struct library *joiner) {
    static unsigned char bytes[100000];
    const int64_t shape[] = { sizeof bytes };
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 31 + i / 256);
    }
    ce_tensor tensor = { .name = "t", .shape = shape, .rank = 1, .dtype = CE_DTYPE_U8, .data = bytes };
    ce_server_options options = { .struct_size = sizeof options };
    ce_server *serving;
    ce_server *joining;
    ce_join *join;
    ce_checkpoint *checkpoint;
    char url[256];
    size_t size = sizeof url;
    must(holder, holder->server_create(&options, &serving), "create");
    options.flags = CE_SERVER_JOIN_ONLY;
    must(joiner, joiner->server_create(&options, &joining), "create");
    must(holder, holder->server_register_tensors(serving, "m", &tensor, 1), "register");
    must(holder, holder->server_peer_url(serving, url, &size), "peer_url");
    strcat(url, "/m");
    ce_join_options join_options = { .struct_size = sizeof join_options, .metas_url = url };
    must(joiner, joiner->join_start(joining, &join_options, &join), "start");
    must(joiner, joiner->join_wait(join, CE_FOREVER), "wait");
    must(joiner, joiner->join_checkpoint(join, &checkpoint), "checkpoint");
    ce_tensor found;
    must(joiner, joiner->checkpoint_find(checkpoint, "t", &found), "find");
    CHECK(found.size_bytes == sizeof bytes && memcmp(found.data, bytes, sizeof bytes) == 0);

    /* a handle of one is unknown to the other */
    CHECK(holder->checkpoint_find(checkpoint, "t", &found) == CE_E_HANDLE);
    CHECK(holder->checkpoint_destroy(checkpoint) == CE_E_HANDLE);
    CHECK(holder->join_wait(join, CE_FOREVER) == CE_E_HANDLE);
    CHECK(holder->join_destroy(join) == CE_E_HANDLE);
    CHECK(holder->server_destroy(joining) == CE_E_HANDLE);
    CHECK(joiner->server_destroy(serving) == CE_E_HANDLE);

    must(joiner, joiner->join_destroy(join), "destroy");
    must(joiner, joiner->checkpoint_destroy(checkpoint), "destroy");
    must(joiner, joiner->server_destroy(joining), "destroy");
    must(holder, holder->server_destroy(serving), "destroy");
}

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    alarm(60);
    struct library one = load(argv[1]);
    struct library two = load(argv[2]);
    CHECK((void *)(uintptr_t)one.server_create != (void *)(uintptr_t)two.server_create);
    serve_and_join(&one, &two);
    serve_and_join(&two, &one);
    if (failures == 0) {
        puts("two copies: served and joined each other");
    }
    return failures == 0 ? 0 : 1;
}
