/* What the C and C++ programs of these tests share: checks that count, threads, gates to wait at, and tensors with known bytes.
 * A program ends with 0, with 1 after failed checks, or by SIGALRM when it hangs. */
#ifndef TEST_H
#define TEST_H

#include "checkpoint_engine.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int test_failures;
static int test_checks;

static inline void test_fail(const char *file, int line, const char *what) {
    __atomic_fetch_add(&test_failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
}

static inline int test_check(const char *file, int line, const char *what, int holds) {
    __atomic_fetch_add(&test_checks, 1, __ATOMIC_RELAXED);
    if (!holds) {
        test_fail(file, line, what);
    }
    return holds;
}

/* A status that is one of two expected; with a failing one comes a text. */
static inline int test_status(const char *file, int line, const char *call, ce_status wanted, ce_status or_wanted, ce_status got) {
    char text[512] = "";
    size_t size = sizeof text;
    __atomic_fetch_add(&test_checks, 1, __ATOMIC_RELAXED);
    if (got != CE_OK) {
        ce_last_error(text, &size);
    }
    if (got != wanted && got != or_wanted) {
        test_fail(file, line, call);
        fprintf(stderr, "    wanted %s, got %s: %s\n", ce_status_name(wanted), ce_status_name(got), text);
        return 0;
    }
    if (got != CE_OK && text[0] == 0) {
        test_fail(file, line, call);
        fprintf(stderr, "    %s without a text\n", ce_status_name(got));
        return 0;
    }
    return 1;
}

#define CHECK(condition) test_check(__FILE__, __LINE__, #condition, (condition) != 0)
#define OK(call) test_status(__FILE__, __LINE__, #call, CE_OK, CE_OK, (call))
#define IS(status, call) test_status(__FILE__, __LINE__, #call, (status), (status), (call))
#define EITHER(status, other, call) test_status(__FILE__, __LINE__, #call, (status), (other), (call))
/* Without it nothing further makes sense. */
#define MUST(call)                                                                                                                                   \
    do {                                                                                                                                             \
        if (!OK(call)) {                                                                                                                             \
            exit(1);                                                                                                                                 \
        }                                                                                                                                            \
    } while (0)

static inline int test_end(const char *name) {
    if (test_failures != 0) {
        fprintf(stderr, "%s: %d of %d checks failed\n", name, test_failures, test_checks);
        return 1;
    }
    printf("%s: %d checks\n", name, test_checks);
    return 0;
}

/* A hang ends the program: SIGALRM after that many seconds, more under a checker that slows it down. */
static inline void test_patience(unsigned seconds) {
    const char *factor = getenv("CE_TEST_PATIENCE");
    alarm(seconds * (factor == NULL ? 1 : (unsigned)atoi(factor)));
}

/* ---- Gates: opened once, waited at by any number ---- */

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t news;
    int open;
};

#define GATE_INIT { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 }

static inline void gate_open(struct gate *gate) {
    pthread_mutex_lock(&gate->lock);
    gate->open = 1;
    pthread_cond_broadcast(&gate->news);
    pthread_mutex_unlock(&gate->lock);
}

static inline void gate_wait(struct gate *gate) {
    pthread_mutex_lock(&gate->lock);
    while (!gate->open) {
        pthread_cond_wait(&gate->news, &gate->lock);
    }
    pthread_mutex_unlock(&gate->lock);
}

static inline pthread_t thread_start(void *(*run)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, argument) != 0) {
        perror("pthread_create");
        exit(1);
    }
    return thread;
}

static inline void *thread_end(pthread_t thread) {
    void *result = NULL;
    pthread_join(thread, &result);
    return result;
}

/* ---- A model in the caller's memory: several dtypes, an empty tensor, a scalar, tied and overlapping ones ---- */

enum { MODEL_TENSORS = 7, MODEL_BYTES = 1 << 20 };

static const int64_t model_shape_wide[] = { 256, 256 };
static const int64_t model_shape_row[] = { 300001 };
static const int64_t model_shape_empty[] = { 0, 4 };
static const int64_t model_shape_small[] = { 3, 5 };

struct model {
    unsigned char *memory;
    ce_tensor tensors[MODEL_TENSORS];
};

static inline void model_tensor(struct model *model, int index, const char *name, uint32_t dtype, const int64_t *shape, uint32_t rank, size_t offset,
                                uint64_t size_bytes) {
    ce_tensor *tensor = &model->tensors[index];
    memset(tensor, 0, sizeof *tensor);
    tensor->name = name;
    tensor->shape = shape;
    tensor->rank = rank;
    tensor->dtype = dtype;
    tensor->data = size_bytes == 0 ? NULL : model->memory + offset;
    tensor->size_bytes = size_bytes;
}

/* Bytes that differ by seed and place. */
static inline void model_fill(struct model *model, uint32_t seed) {
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < MODEL_BYTES; i++) {
        state = state * 1664525u + 1013904223u;
        model->memory[i] = (unsigned char)(state >> 24);
    }
}

static inline void model_make(struct model *model, uint32_t seed) {
    model->memory = (unsigned char *)malloc(MODEL_BYTES);
    if (model->memory == NULL) {
        abort();
    }
    model_fill(model, seed);
    model_tensor(model, 0, "embed.weight", CE_DTYPE_BF16, model_shape_wide, 2, 0, 131072);
    model_tensor(model, 1, "lm_head.weight", CE_DTYPE_BF16, model_shape_wide, 2, 0, 131072);                      /* tied: the same bytes */
    model_tensor(model, 2, "layer.0.weight", CE_DTYPE_F8_E4M3, model_shape_row, 1, 131072, 300001);
    model_tensor(model, 3, "layer.0.overlapping", CE_DTYPE_U8, model_shape_row, 1, 131072 + 1000, 300001);        /* all but the first thousand */
    model_tensor(model, 4, "layer.0.scale", CE_DTYPE_F32, NULL, 0, 524288, 4);                                    /* a scalar */
    model_tensor(model, 5, "layer.0.empty", CE_DTYPE_I64, model_shape_empty, 2, 0, 0);
    model_tensor(model, 6, "gr\xc3\xb6\xc3\x9f" "e", CE_DTYPE_F64, model_shape_small, 2, 524288 + 8, 120);
}

static inline void model_free(struct model *model) { free(model->memory); }

static inline const ce_tensor *model_find(const struct model *model, const char *name) {
    for (int i = 0; i < MODEL_TENSORS; i++) {
        if (strcmp(model->tensors[i].name, name) == 0) {
            return &model->tensors[i];
        }
    }
    return NULL;
}

/* Whether a tensor is, bit for bit, the one of its name in the model. */
static inline int model_has(const struct model *model, const ce_tensor *tensor) {
    const ce_tensor *own = model_find(model, tensor->name);
    return own != NULL && own->dtype == tensor->dtype && own->rank == tensor->rank && own->size_bytes == tensor->size_bytes
        && (own->rank == 0 || memcmp(own->shape, tensor->shape, own->rank * sizeof(int64_t)) == 0)
        && (own->size_bytes == 0 || memcmp(own->data, tensor->data, own->size_bytes) == 0);
}

/* ---- Two servers in one process, one that holds the model as "m" and one that joins ---- */

struct pair {
    struct model model;
    ce_server *holder;
    ce_server *joiner;
    char url[256];
};

static inline void pair_make(struct pair *pair) {
    ce_server_options options;
    size_t size = sizeof pair->url;
    memset(pair, 0, sizeof *pair);
    model_make(&pair->model, 1);
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.drain_timeout_ms = 2000;
    MUST(ce_server_create(&options, &pair->holder));
    options.flags = CE_SERVER_JOIN_ONLY;
    MUST(ce_server_create(&options, &pair->joiner));
    MUST(ce_server_register_tensors(pair->holder, "m", pair->model.tensors, MODEL_TENSORS));
    MUST(ce_server_peer_url(pair->holder, pair->url, &size));
    strcat(pair->url, "/m");
}

static inline void pair_free(struct pair *pair) {
    OK(ce_server_destroy(pair->joiner));
    OK(ce_server_destroy(pair->holder));
    model_free(&pair->model);
}

static inline ce_join_options pair_options(const struct pair *pair, uint32_t destination) {
    ce_join_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.metas_url = pair->url;
    options.destination = destination;
    return options;
}

#endif
