/* What the C interface costs. One measurement a process; prints numbers, one line each.
 *
 *   abi LIBRARY create                dlopen and ce_server_create: milliseconds
 *   abi LIBRARY join CE-URL           one join to nowhere, verified: seconds
 *   abi LIBRARY calls                 ce_checkpoint_tensor, ce_checkpoint_find, ce_join_poll: nanoseconds each
 *   abi LIBRARY register GIB          ce_server_register_tensors of one tensor, memory touched: milliseconds; and minor faults it took
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "checkpoint_engine.h"

static void *library;
static void *symbol(const char *name) {
    void *found = dlsym(library, name);
    if (found == NULL) { fprintf(stderr, "%s\n", dlerror()); exit(1); }
    return found;
}
#define CALL(function) ((__typeof__(&function))symbol(#function))

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void check(ce_status status, const char *what) {
    if (status != CE_OK) {
        char text[1024];
        size_t size = sizeof text;
        CALL(ce_last_error)(text, &size);
        fprintf(stderr, "%s: %s: %s\n", what, CALL(ce_status_name)(status), text);
        exit(1);
    }
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static ce_server *create(uint32_t flags) {
    ce_server_options options = { .struct_size = sizeof options };
    ce_server *server;
    options.flags = flags;
    options.digest = CE_DIGEST_NONE;
    options.pin = CE_PIN_NONE;
    check(CALL(ce_server_create)(&options, &server), "create");
    return server;
}

/* A checkpoint of `count` tensors of `bytes` each, held in place. */
static void hold(ce_server *server, char *memory, size_t count, int64_t bytes) {
    ce_tensor *tensors = calloc(count, sizeof *tensors);
    char (*names)[64] = calloc(count, sizeof *names);
    for (size_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "model.layers.%zu.mlp.down_proj.weight", i);
        tensors[i] = (ce_tensor){ .name = names[i], .shape = &bytes, .data = memory + i * (size_t)bytes, .rank = 1, .dtype = CE_DTYPE_U8 };
    }
    check(CALL(ce_server_register_tensors)(server, "bench", tensors, count), "register");
    free(names);
    free(tensors);
}

static char *touched(size_t bytes) {
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) { perror("mmap"); exit(1); }
    madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 1, bytes);
    return memory;
}

/* The median of 21 batches, in nanoseconds a call. */
#define MEASURE(call) do { \
        double batches[21]; \
        for (int batch = 0; batch < 21; batch++) { \
            double start = now(); \
            for (int i = 0; i < 20000; i++) { check(call, #call); } \
            batches[batch] = (now() - start) / 20000 * 1e9; \
        } \
        qsort(batches, 21, sizeof *batches, compare); \
        printf("%.1f\n", batches[10]); \
    } while (0)

static void calls(void) {
    enum { TENSORS = 139600 };
    ce_server *server = create(0);
    hold(server, touched(TENSORS), TENSORS, 1);
    ce_metas *metas;
    check(CALL(ce_server_metas)(server, "bench", &metas), "metas");
    ce_join_options options = { .struct_size = sizeof options };
    options.metas = metas;
    options.destination = CE_TO_NULL;
    options.transport = CE_TRANSPORT_TCP;
    ce_join *join;
    check(CALL(ce_join_start)(server, &options, &join), "join");
    check(CALL(ce_join_wait)(join, CE_FOREVER), "wait");
    ce_checkpoint *checkpoint;
    check(CALL(ce_server_checkpoint)(server, "bench", &checkpoint), "checkpoint");

    __typeof__(&ce_checkpoint_tensor) tensor_of = CALL(ce_checkpoint_tensor);
    __typeof__(&ce_checkpoint_find) find = CALL(ce_checkpoint_find);
    __typeof__(&ce_join_poll) poll = CALL(ce_join_poll);
    ce_tensor tensor;
    ce_join_progress progress = { .struct_size = sizeof progress };
    check(find(checkpoint, "model.layers.1.mlp.down_proj.weight", &tensor), "find");     /* makes the index */
    MEASURE(tensor_of(checkpoint, (uint64_t)i * 7 % TENSORS, &tensor));
    MEASURE(find(checkpoint, "model.layers.77777.mlp.down_proj.weight", &tensor));
    MEASURE(poll(join, &progress));
}

static void join(const char *url) {
    ce_server *server = create(CE_SERVER_JOIN_ONLY);
    ce_join_options options = { .struct_size = sizeof options };
    options.metas_url = url;
    options.destination = CE_TO_NULL;
    options.verify = CE_VERIFY_REQUIRE;
    ce_join *join;
    ce_join_report report = { .struct_size = sizeof report };
    options.transport = CE_TRANSPORT_TCP;      /* as the command beside it */
    check(CALL(ce_join_start)(server, &options, &join), "join");
    check(CALL(ce_join_wait)(join, CE_FOREVER), "wait");
    check(CALL(ce_join_get_report)(join, &report), "report");
    printf("%.6f\n", report.seconds);
}

static long minor_faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static void register_large(size_t gib) {
    ce_server *server = create(0);
    int64_t bytes = (int64_t)(gib << 30);
    char *memory = touched((size_t)bytes);
    hold(server, touched(4096), 1, 4096);
    check(CALL(ce_server_unregister)(server, "bench"), "unregister");       /* the code has run once */
    double samples[11];
    long faults = minor_faults();
    for (int i = 0; i < 11; i++) {
        double start = now();
        hold(server, memory, 1, bytes);
        samples[i] = (now() - start) * 1e3;
        check(CALL(ce_server_unregister)(server, "bench"), "unregister");
    }
    qsort(samples, 11, sizeof *samples, compare);
    printf("%.4f\n%ld\n", samples[5], minor_faults() - faults);
}

int main(int count, char **words) {
    double start = now();
    if (count < 3) { fprintf(stderr, "usage: abi LIBRARY create|calls|join|register [ARGUMENT]\n"); return 2; }
    library = dlopen(words[1], RTLD_NOW);
    if (library == NULL) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    if (strcmp(words[2], "create") == 0) {
        create(0);
        printf("%.3f\n", (now() - start) * 1e3);
    } else if (strcmp(words[2], "calls") == 0) {
        calls();
    } else if (strcmp(words[2], "join") == 0) {
        join(words[3]);
    } else {
        register_large((size_t)atoi(words[3]));
    }
    fflush(stdout);
    _Exit(0);
}
