/* Eight threads at once: look-ups on one checkpoint, joins, and everything at everything while it is destroyed under their feet. */
#include "test.h"

enum { THREADS = 8 };

static int rounds(int plain) {
    const char *factor = getenv("CE_TEST_PATIENCE");      /* fewer where a checker slows it down */
    return factor == NULL ? plain : plain / 10 + 1;
}

/* ---- Many look up ---- */

struct lookups {
    struct pair *pair;
    ce_checkpoint *checkpoint;
    ce_metas *metas;
    struct gate start;
};

static void *look_up(void *argument) {
    struct lookups *lookups = (struct lookups *)argument;
    ce_tensor tensor;
    gate_wait(&lookups->start);
    for (int i = 0; i < rounds(2000); i++) {
        const ce_tensor *own = &lookups->pair->model.tensors[i % MODEL_TENSORS];
        if (ce_checkpoint_find(lookups->checkpoint, own->name, &tensor) != CE_OK || tensor.dtype != own->dtype || tensor.size_bytes != own->size_bytes
            || (own->size_bytes != 0 && tensor.data != own->data) || strcmp(tensor.name, own->name) != 0) {
            CHECK(!"a look-up by name");
        }
        if (ce_checkpoint_tensor(lookups->checkpoint, (uint64_t)(i % MODEL_TENSORS), &tensor) != CE_OK || model_find(&lookups->pair->model, tensor.name) == NULL) {
            CHECK(!"a look-up by number");
        }
        if (ce_metas_tensor(lookups->metas, (uint64_t)(i % MODEL_TENSORS), &tensor, NULL) != CE_OK || model_find(&lookups->pair->model, tensor.name) == NULL) {
            CHECK(!"a look-up in the metas");
        }
        if (i % 100 == 0) {
            IS(CE_E_NOT_FOUND, ce_checkpoint_find(lookups->checkpoint, "not there", &tensor));
            const void *data;
            size_t size;
            OK(ce_metas_write(lookups->metas, (uint32_t)(i / 100 % 2), &data, &size));
        }
    }
    return NULL;
}

static void many_look_up(struct pair *pair) {
    struct lookups lookups = { .pair = pair, .start = GATE_INIT };
    pthread_t threads[THREADS];
    MUST(ce_server_checkpoint(pair->holder, "m", &lookups.checkpoint));
    MUST(ce_server_metas(pair->holder, "m", &lookups.metas));
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(look_up, &lookups);
    }
    gate_open(&lookups.start);      /* so that the first look-up, which makes the index, has company */
    for (int i = 0; i < THREADS; i++) {
        thread_end(threads[i]);
    }
    OK(ce_checkpoint_destroy(lookups.checkpoint));
    OK(ce_metas_destroy(lookups.metas));
}

/* ---- Many join ---- */

struct joining {
    struct pair *pair;
    int number;
};

static int accept_bucket(void *user, const ce_bucket *bucket) {
    const struct model *model = (const struct model *)user;
    for (uint64_t i = 0; i < bucket->tensor_count; i++) {
        CHECK(model_has(model, &bucket->tensors[i]));
    }
    return 0;
}

static void *join_all(void *argument) {
    struct joining *joining = (struct joining *)argument;
    for (int i = 0; i < rounds(4); i++) {
        uint32_t destination = (uint32_t)((joining->number + i) % 3 == 0 ? CE_TO_MEMORY : (joining->number + i) % 3 == 1 ? CE_TO_BUCKETS : CE_TO_NULL);
        ce_join_options options = pair_options(joining->pair, destination);
        char name[64];
        snprintf(name, sizeof name, "of thread %d", joining->number);
        ce_join *join;
        if (destination == CE_TO_MEMORY) {
            options.checkpoint_name = name;
        }
        if (destination == CE_TO_BUCKETS) {
            options.on_bucket = accept_bucket;
            options.user = &joining->pair->model;
        }
        if (OK(ce_join_start(joining->pair->joiner, &options, &join))) {
            OK(ce_join_wait(join, CE_FOREVER));
            OK(ce_join_destroy(join));
        }
        if (destination == CE_TO_MEMORY) {
            OK(ce_server_unregister(joining->pair->joiner, name));
        }
    }
    return NULL;
}

static void many_join(struct pair *pair) {
    struct joining joining[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        joining[i].pair = pair;
        joining[i].number = i;
        threads[i] = thread_start(join_all, &joining[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        thread_end(threads[i]);
    }
}

/* ---- Destroys in between ---- */

struct shared {
    struct pair *pair;
    ce_cancel *cancel;
    ce_metas *metas;
    ce_checkpoint *checkpoint;
    ce_server *server;
    ce_join *join;
    pthread_barrier_t turn;
    int destroyed[5];
};

struct user_of_shared {
    struct shared *shared;
    int number;
};

/* Either the call came before the destroy, or it is told so; nothing else. */
static void lives_or_gone(ce_status status, ce_status also, const char *call) {
    if (status != CE_OK && status != CE_E_HANDLE && status != also) {
        CHECK(!"a status that belongs to neither the living nor the destroyed");
        fprintf(stderr, "    %s: %s\n", call, ce_status_name(status));
    }
}

#define LIVES(call) lives_or_gone((call), CE_OK, #call)
#define LIVES_OR(also, call) lives_or_gone((call), (also), #call)

static void count_destroy(struct shared *shared, int which, ce_status status) {
    if (status == CE_OK) {
        __atomic_fetch_add(&shared->destroyed[which], 1, __ATOMIC_RELAXED);
    } else {
        CHECK(status == CE_E_HANDLE);
    }
}

static void *use_and_destroy(void *argument) {
    struct user_of_shared *user = (struct user_of_shared *)argument;
    struct shared *shared = user->shared;
    for (int round = 0; round < rounds(30); round++) {
        pthread_barrier_wait(&shared->turn);      /* the main thread has made the handles */
        for (int step = 0; step < 20; step++) {
            ce_tensor tensor;
            ce_metas *metas;
            ce_checkpoint *checkpoint;
            char text[128];
            size_t size = sizeof text;
            ce_join_progress progress = { .struct_size = sizeof progress };
            ce_join_report report = { .struct_size = sizeof report };
            int destroyer = step == 5 + user->number;
            switch ((user->number + step) % 5) {
                case 0:
                    LIVES(ce_checkpoint_tensor(shared->checkpoint, (uint64_t)step % MODEL_TENSORS, &tensor));
                    LIVES(ce_checkpoint_find(shared->checkpoint, "layer.0.scale", &tensor));
                    ce_checkpoint_size(shared->checkpoint);
                    if (destroyer) {
                        count_destroy(shared, 0, ce_checkpoint_destroy(shared->checkpoint));
                    }
                    break;
                case 1:
                    LIVES(ce_metas_tensor(shared->metas, 0, &tensor, NULL));
                    ce_metas_owner_count(shared->metas);
                    LIVES(ce_metas_owner(shared->metas, 0, NULL, text, &size));
                    if (destroyer) {
                        count_destroy(shared, 1, ce_metas_destroy(shared->metas));
                    }
                    break;
                case 2:
                    LIVES(ce_join_poll(shared->join, &progress));
                    LIVES_OR(CE_E_CANCELLED, ce_join_wait(shared->join, CE_FOREVER));
                    LIVES_OR(CE_E_STATE, ce_join_get_report(shared->join, &report));
                    LIVES(ce_join_cancel(shared->join));
                    if (destroyer) {
                        count_destroy(shared, 2, ce_join_destroy(shared->join));
                    }
                    break;
                case 3:
                    if (ce_server_checkpoint(shared->server, "t", &checkpoint) == CE_OK) {
                        OK(ce_checkpoint_destroy(checkpoint));
                    }
                    if (ce_server_metas(shared->server, "t", &metas) == CE_OK) {
                        OK(ce_metas_destroy(metas));
                    }
                    LIVES(ce_server_peer_url(shared->server, text, &size));
                    if (destroyer) {
                        count_destroy(shared, 3, ce_server_destroy(shared->server));
                    }
                    break;
                default:
                    LIVES(ce_cancel_trigger(shared->cancel));
                    if (destroyer) {
                        count_destroy(shared, 4, ce_cancel_destroy(shared->cancel));
                    }
                    break;
            }
        }
        pthread_barrier_wait(&shared->turn);      /* all are through */
    }
    return NULL;
}

static void destroys_in_between(struct pair *pair) {
    struct shared shared = { .pair = pair };
    struct user_of_shared users[THREADS];
    pthread_t threads[THREADS];
    struct model model;
    model_make(&model, 4);
    pthread_barrier_init(&shared.turn, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        users[i] = (struct user_of_shared){ &shared, i };
        threads[i] = thread_start(use_and_destroy, &users[i]);
    }
    for (int round = 0; round < rounds(30); round++) {
        MUST(ce_cancel_create(&shared.cancel));
        MUST(ce_server_metas(pair->holder, "m", &shared.metas));
        MUST(ce_server_checkpoint(pair->holder, "m", &shared.checkpoint));
        MUST(ce_server_create(NULL, &shared.server));
        MUST(ce_server_register_tensors(shared.server, "t", model.tensors, MODEL_TENSORS));
        ce_join_options options = pair_options(pair, CE_TO_NULL);
        MUST(ce_join_start(pair->joiner, &options, &shared.join));
        memset(shared.destroyed, 0, sizeof shared.destroyed);
        pthread_barrier_wait(&shared.turn);
        pthread_barrier_wait(&shared.turn);
        count_destroy(&shared, 0, ce_checkpoint_destroy(shared.checkpoint));
        count_destroy(&shared, 1, ce_metas_destroy(shared.metas));
        count_destroy(&shared, 2, ce_join_destroy(shared.join));
        count_destroy(&shared, 3, ce_server_destroy(shared.server));
        count_destroy(&shared, 4, ce_cancel_destroy(shared.cancel));
        for (int i = 0; i < 5; i++) {
            CHECK(shared.destroyed[i] == 1);      /* exactly one of those who tried */
        }
    }
    for (int i = 0; i < THREADS; i++) {
        thread_end(threads[i]);
    }
    pthread_barrier_destroy(&shared.turn);
    model_free(&model);
}

int main(void) {
    struct pair pair;
    test_patience(60);
    pair_make(&pair);
    many_look_up(&pair);
    many_join(&pair);
    destroys_in_between(&pair);
    pair_free(&pair);
    return test_end("threads");
}
