/* Everything that a caller can get wrong, each with the outcome that the header defines. Built plainly, with AddressSanitizer, and run under
 * valgrind; so what is handed in lies in heap blocks of its exact size where that could show a read beyond it.
 * usage: bad_input DIRECTORY   an empty directory, for files that are no checkpoints */
#include <sched.h>
#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

static const char *directory;
static const char not_utf8[] = "a\xff\xfe";

#define UNTOUCHED ((void *)(uintptr_t)0x5a5a5a5a5a5a5a5a)

static ce_join *start(struct pair *pair, const ce_join_options *options) {
    ce_join *join;
    MUST(ce_join_start(pair->joiner, options, &join));
    return join;
}

/* A join that is refused at once, or whose result is that. */
static void join_ends_with(struct pair *pair, const ce_join_options *options, ce_status status) {
    ce_join *join = (ce_join *)UNTOUCHED;
    ce_status started = ce_join_start(pair->joiner, options, &join);
    if (started != CE_OK) {
        IS(status, started);
        CHECK(join == NULL);
        return;
    }
    IS(status, ce_join_wait(join, CE_FOREVER));
    OK(ce_join_destroy(join));
}

/* ---- NULL ---- */

static void null_everywhere(struct pair *pair) {
    char text[64];
    size_t size = 0;
    ce_tensor tensor;
    void *out = UNTOUCHED;

    OK(ce_cancel_destroy(NULL));
    OK(ce_metas_destroy(NULL));
    OK(ce_checkpoint_destroy(NULL));
    OK(ce_server_destroy(NULL));
    OK(ce_join_destroy(NULL));
    CHECK(ce_metas_tensor_count(NULL) == 0);
    CHECK(ce_metas_owner_count(NULL) == 0);
    CHECK(ce_checkpoint_tensor_count(NULL) == 0);
    CHECK(ce_checkpoint_size(NULL) == 0);
    CHECK(ce_checkpoint_side_file_count(NULL) == 0);
    CHECK(strcmp(ce_dtype_name(12345), "") == 0);
    CHECK(ce_dtype_bits(12345) == 0);
    CHECK(strcmp(ce_status_name(12345), "CE_E_UNKNOWN") == 0);

    IS(CE_E_ARGUMENT, ce_cancel_create(NULL));
    IS(CE_E_HANDLE, ce_cancel_trigger(NULL));
    IS(CE_E_ARGUMENT, ce_last_error(NULL, NULL));
    IS(CE_E_ARGUMENT, ce_last_error(text, NULL));
    size = 10;
    IS(CE_E_ARGUMENT, ce_last_error(NULL, &size));      /* a capacity without a buffer */

    IS(CE_E_ARGUMENT, ce_metas_parse("{}", 2, NULL));
    IS(CE_E_ARGUMENT, ce_metas_parse(NULL, 2, (ce_metas **)&out));
    CHECK(out == NULL);
    out = UNTOUCHED;
    IS(CE_E_ARGUMENT, ce_metas_fetch(NULL, NULL, NULL, (ce_metas **)&out));
    IS(CE_E_ARGUMENT, ce_metas_follow(NULL, NULL, NULL, 0, NULL, (ce_metas **)&out));
    IS(CE_E_ARGUMENT, ce_metas_follow(pair->url, NULL, NULL, 0, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_metas_follow("file:///nowhere", NULL, NULL, 0, NULL, (ce_metas **)&out));
    CHECK(out == NULL);
    IS(CE_E_ARGUMENT, ce_metas_fetch(pair->url, NULL, NULL, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_metas_write(NULL, CE_METAS_JSON, NULL, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_metas_tensor(NULL, 0, NULL, NULL));
    IS(CE_E_HANDLE, ce_metas_owner(NULL, 0, NULL, NULL, NULL));

    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_checkpoint_tensor(NULL, 0, NULL));
    IS(CE_E_HANDLE, ce_checkpoint_tensor(NULL, 0, &tensor));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_checkpoint_find(NULL, NULL, NULL));
    IS(CE_E_HANDLE, ce_checkpoint_find(NULL, "x", &tensor));
    IS(CE_E_HANDLE, ce_checkpoint_side_file(NULL, 0, NULL, NULL, NULL, NULL));

    IS(CE_E_ARGUMENT, ce_server_create(NULL, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_peer_url(NULL, NULL, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_p2p_address(NULL, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_peer_url(pair->holder, text, NULL));
    IS(CE_E_ARGUMENT, ce_server_p2p_address(pair->holder, NULL, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_register_files(NULL, NULL, NULL, 0, NULL));
    IS(CE_E_ARGUMENT, ce_server_register_files(pair->holder, NULL, &directory, 1, NULL));
    IS(CE_E_ARGUMENT, ce_server_register_files(pair->holder, "x", NULL, 1, NULL));
    IS(CE_E_ARGUMENT, ce_server_replace_files(pair->holder, NULL, &directory, 1, NULL));
    IS(CE_E_ARGUMENT, ce_server_replace_files(pair->holder, "m", NULL, 1, NULL));
    IS(CE_E_ARGUMENT, ce_server_replace_files(pair->holder, "m", &directory, 0, NULL));
    IS(CE_E_ARGUMENT, ce_server_register_files(pair->holder, "x", &directory, 0, NULL));
    const char *null_path = NULL;
    IS(CE_E_ARGUMENT, ce_server_register_files(pair->holder, "x", &null_path, 1, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_register_files_with(NULL, NULL, NULL, 0, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_register_files_with(pair->holder, NULL, &directory, 1, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_register_files_with(pair->holder, "x", &null_path, 1, NULL, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_register_tensors(NULL, NULL, NULL, 0));
    IS(CE_E_ARGUMENT, ce_server_register_tensors(pair->holder, NULL, pair->model.tensors, 1));
    IS(CE_E_ARGUMENT, ce_server_register_tensors(pair->holder, "x", NULL, 1));
    IS(CE_E_ARGUMENT, ce_server_register_tensors(pair->holder, "x", pair->model.tensors, 0));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_begin_update(NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_begin_update(pair->holder, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_commit_update(NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_commit_update(pair->holder, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_unregister(NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_unregister(pair->holder, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_unregister_force(NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_unregister_force(pair->holder, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_set_token(NULL, NULL));
    EITHER(CE_E_STATE, CE_E_ARGUMENT, ce_server_set_token(pair->holder, NULL));
    IS(CE_E_HANDLE, ce_server_reload_certificates(NULL));
    IS(CE_E_HANDLE, ce_server_finish_relays(NULL, 0, NULL, NULL));
    OK(ce_server_finish_relays(pair->holder, 0, NULL, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_update(NULL, NULL, NULL, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_update(pair->holder, NULL, NULL, NULL, NULL));
    IS(CE_E_NOT_FOUND, ce_server_update(pair->holder, "x", NULL, NULL, NULL));
    {
        ce_update_options update = CE_UPDATE_OPTIONS_INIT;
        ce_update_report report = {0};
        IS(CE_E_ARGUMENT, ce_server_update(pair->holder, "m", &update, NULL, &report));   /* struct_size is 0 */
        report.struct_size = sizeof report;
        update.engine = CE_ENGINE_SGLANG_FILES + 1;
        IS(CE_E_ARGUMENT, ce_server_update(pair->holder, "m", &update, NULL, &report));
        update.engine = CE_ENGINE_VLLM;
        update.endpoint = "ftp://localhost";
        IS(CE_E_ARGUMENT, ce_server_update(pair->holder, "m", &update, NULL, &report));
        update.endpoint = "http://127.0.0.1:1";
        update.parallel_size = 1025;
        IS(CE_E_ARGUMENT, ce_server_update(pair->holder, "m", &update, NULL, &report));
        update.parallel_size = 0;
        update.devices = CE_UPDATE_CUDA;
        IS(CE_E_NOT_SUPPORTED, ce_server_update(pair->holder, "m", &update, NULL, &report));
        update.devices = CE_UPDATE_HOST;
        update.health_timeout_ms = 200;
        IS(CE_E_TIMEOUT, ce_server_update(pair->holder, "m", &update, NULL, &report));
        update.struct_size = 4;
        IS(CE_E_ARGUMENT, ce_server_update(pair->holder, "m", &update, NULL, &report));
    }
    IS(CE_E_ARGUMENT, ce_update_warnings(NULL, NULL));
    IS(CE_E_ARGUMENT, ce_update_warnings(text, NULL));
    size = 0;
    IS(CE_E_BUFFER_TOO_SMALL, ce_update_warnings(NULL, &size));
    CHECK(size == 1);                                   /* an update that failed leaves none */
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_metas(NULL, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_metas(pair->holder, "m", NULL));
    out = UNTOUCHED;
    IS(CE_E_ARGUMENT, ce_server_metas(pair->holder, NULL, (ce_metas **)&out));
    CHECK(out == NULL);
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_load_metas(NULL, NULL, NULL));
    IS(CE_E_HANDLE, ce_server_load_metas(pair->holder, "x", NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_server_checkpoint(NULL, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_checkpoint(pair->holder, "m", NULL));
    IS(CE_E_ARGUMENT, ce_server_checkpoint(pair->holder, NULL, (ce_checkpoint **)&out));

    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_join_start(NULL, NULL, NULL));
    out = UNTOUCHED;
    IS(CE_E_ARGUMENT, ce_join_start(pair->joiner, NULL, (ce_join **)&out));
    CHECK(out == NULL);
    ce_join_options options = pair_options(pair, CE_TO_NULL);
    IS(CE_E_ARGUMENT, ce_join_start(pair->joiner, &options, NULL));
    out = UNTOUCHED;
    IS(CE_E_HANDLE, ce_join_start(NULL, &options, (ce_join **)&out));
    CHECK(out == NULL);
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_join_poll(NULL, NULL));
    IS(CE_E_HANDLE, ce_join_wait(NULL, 0));
    IS(CE_E_HANDLE, ce_join_wait(NULL, CE_FOREVER));
    IS(CE_E_HANDLE, ce_join_cancel(NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_join_get_report(NULL, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_join_warnings(NULL, NULL, NULL));
    EITHER(CE_E_HANDLE, CE_E_ARGUMENT, ce_join_checkpoint(NULL, NULL));

    /* and NULL where it is allowed, or where only it is wrong */
    ce_join *join = start(pair, &options);
    OK(ce_join_wait(join, CE_FOREVER));
    IS(CE_E_ARGUMENT, ce_join_poll(join, NULL));
    IS(CE_E_ARGUMENT, ce_join_get_report(join, NULL));
    IS(CE_E_ARGUMENT, ce_join_warnings(join, NULL, NULL));
    EITHER(CE_E_ARGUMENT, CE_E_STATE, ce_join_checkpoint(join, NULL));
    OK(ce_join_destroy(join));
    ce_metas *metas;
    MUST(ce_server_metas(pair->holder, "m", &metas));
    const void *data;
    IS(CE_E_ARGUMENT, ce_metas_write(metas, CE_METAS_JSON, NULL, &size));
    IS(CE_E_ARGUMENT, ce_metas_write(metas, CE_METAS_JSON, &data, NULL));
    IS(CE_E_ARGUMENT, ce_metas_write(metas, 7, &data, &size));
    IS(CE_E_ARGUMENT, ce_metas_tensor(metas, 0, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_metas_tensor(metas, MODEL_TENSORS, &tensor, NULL));
    IS(CE_E_ARGUMENT, ce_metas_tensor(metas, UINT64_MAX, &tensor, NULL));
    OK(ce_metas_tensor(metas, 0, &tensor, NULL));
    CHECK(tensor.data == NULL && tensor.name != NULL);
    OK(ce_metas_owner(metas, 0, NULL, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_metas_owner(metas, 1, NULL, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_load_metas(pair->holder, NULL, metas));
    OK(ce_metas_destroy(metas));
    ce_checkpoint *checkpoint;
    MUST(ce_server_checkpoint(pair->holder, "m", &checkpoint));
    IS(CE_E_ARGUMENT, ce_checkpoint_tensor(checkpoint, 0, NULL));
    IS(CE_E_ARGUMENT, ce_checkpoint_tensor(checkpoint, UINT64_MAX, &tensor));
    IS(CE_E_ARGUMENT, ce_checkpoint_find(checkpoint, NULL, &tensor));
    IS(CE_E_ARGUMENT, ce_checkpoint_find(checkpoint, "layer.0.scale", NULL));
    IS(CE_E_ARGUMENT, ce_checkpoint_side_file(checkpoint, 0, NULL, NULL, NULL, NULL));      /* it has none */
    OK(ce_checkpoint_destroy(checkpoint));
}

/* ---- Handles ---- */

/* Every function of every kind of handle, with one that is not of its kind. */
static void unknown_to_all(void *handle, int cancel, int metas, int checkpoint, int server, int join) {
    char text[64];
    size_t size = sizeof text;
    ce_tensor tensor;
    const void *data;
    void *out = UNTOUCHED;
    ce_join_progress progress = { .struct_size = sizeof progress };
    ce_join_report report = { .struct_size = sizeof report };
    ce_join_options options = { .struct_size = sizeof options, .metas_url = "ce://127.0.0.1:1/m" };
    if (cancel) {
        IS(CE_E_HANDLE, ce_cancel_trigger((ce_cancel *)handle));
        IS(CE_E_HANDLE, ce_cancel_destroy((ce_cancel *)handle));
        IS(CE_E_HANDLE, ce_metas_fetch("file:///nowhere", NULL, (ce_cancel *)handle, (ce_metas **)&out));
        CHECK(out == NULL);
        IS(CE_E_HANDLE, ce_metas_follow("ce://127.0.0.1:1/m", NULL, NULL, 0, (ce_cancel *)handle, (ce_metas **)&out));
    }
    if (metas) {
        CHECK(ce_metas_tensor_count((ce_metas *)handle) == 0);
        CHECK(ce_metas_owner_count((ce_metas *)handle) == 0);
        IS(CE_E_HANDLE, ce_metas_write((ce_metas *)handle, CE_METAS_JSON, &data, &size));
        IS(CE_E_HANDLE, ce_metas_tensor((ce_metas *)handle, 0, &tensor, NULL));
        IS(CE_E_HANDLE, ce_metas_owner((ce_metas *)handle, 0, NULL, NULL, NULL));
        IS(CE_E_HANDLE, ce_metas_follow("ce://127.0.0.1:1/m", NULL, (ce_metas *)handle, 0, NULL, (ce_metas **)&out));
        CHECK(out == NULL);
        IS(CE_E_HANDLE, ce_metas_destroy((ce_metas *)handle));
    }
    if (checkpoint) {
        CHECK(ce_checkpoint_tensor_count((ce_checkpoint *)handle) == 0);
        CHECK(ce_checkpoint_size((ce_checkpoint *)handle) == 0);
        CHECK(ce_checkpoint_side_file_count((ce_checkpoint *)handle) == 0);
        IS(CE_E_HANDLE, ce_checkpoint_tensor((ce_checkpoint *)handle, 0, &tensor));
        IS(CE_E_HANDLE, ce_checkpoint_find((ce_checkpoint *)handle, "x", &tensor));
        IS(CE_E_HANDLE, ce_checkpoint_side_file((ce_checkpoint *)handle, 0, NULL, NULL, NULL, NULL));
        IS(CE_E_HANDLE, ce_checkpoint_destroy((ce_checkpoint *)handle));
    }
    if (server) {
        IS(CE_E_HANDLE, ce_server_peer_url((ce_server *)handle, text, &size));
        IS(CE_E_HANDLE, ce_server_p2p_address((ce_server *)handle, text, &size));
        IS(CE_E_HANDLE, ce_server_register_files((ce_server *)handle, "x", &directory, 1, NULL));
        IS(CE_E_HANDLE, ce_server_replace_files((ce_server *)handle, "x", &directory, 1, NULL));
        IS(CE_E_HANDLE, ce_server_register_files_with((ce_server *)handle, "x", &directory, 1, NULL, NULL));
        tensor = (ce_tensor){ .name = "t", .data = text, .dtype = CE_DTYPE_U8, .size_bytes = 1 };
        IS(CE_E_HANDLE, ce_server_register_tensors((ce_server *)handle, "x", &tensor, 1));
        IS(CE_E_HANDLE, ce_server_begin_update((ce_server *)handle, "m"));
        IS(CE_E_HANDLE, ce_server_commit_update((ce_server *)handle, "m"));
        IS(CE_E_HANDLE, ce_server_unregister((ce_server *)handle, "m"));
        IS(CE_E_HANDLE, ce_server_unregister_force((ce_server *)handle, "m"));
        IS(CE_E_HANDLE, ce_server_set_token((ce_server *)handle, "token"));
        IS(CE_E_HANDLE, ce_server_reload_certificates((ce_server *)handle));
        IS(CE_E_HANDLE, ce_server_finish_relays((ce_server *)handle, 0, NULL, NULL));
        IS(CE_E_HANDLE, ce_server_update((ce_server *)handle, "m", NULL, NULL, NULL));
        IS(CE_E_HANDLE, ce_server_metas((ce_server *)handle, "m", (ce_metas **)&out));
        CHECK(out == NULL);
        IS(CE_E_HANDLE, ce_server_checkpoint((ce_server *)handle, "m", (ce_checkpoint **)&out));
        IS(CE_E_HANDLE, ce_join_start((ce_server *)handle, &options, (ce_join **)&out));
        IS(CE_E_HANDLE, ce_server_destroy((ce_server *)handle));
    }
    if (join) {
        IS(CE_E_HANDLE, ce_join_poll((ce_join *)handle, &progress));
        IS(CE_E_HANDLE, ce_join_wait((ce_join *)handle, CE_FOREVER));
        IS(CE_E_HANDLE, ce_join_cancel((ce_join *)handle));
        IS(CE_E_HANDLE, ce_join_get_report((ce_join *)handle, &report));
        IS(CE_E_HANDLE, ce_join_warnings((ce_join *)handle, text, &size));
        IS(CE_E_HANDLE, ce_join_checkpoint((ce_join *)handle, (ce_checkpoint **)&out));
        IS(CE_E_HANDLE, ce_join_destroy((ce_join *)handle));
    }
    CHECK(size == sizeof text);
}

static void wrong_handles(struct pair *pair) {
    int on_stack = 0;
    void *on_heap = malloc(64);
    memset(on_heap, 0x41, 64);
    unknown_to_all(&on_stack, 1, 1, 1, 1, 1);
    unknown_to_all(on_heap, 1, 1, 1, 1, 1);
    unknown_to_all((void *)(uintptr_t)&unknown_to_all, 1, 1, 1, 1, 1);
    free(on_heap);
    const uintptr_t bits[] = { 1, 2, 3, 7, 8, 16, 0x1000, 0xdeadbeef, (uintptr_t)1 << 32, (uintptr_t)1 << 47, (uintptr_t)INTPTR_MAX, (uintptr_t)INTPTR_MIN, UINTPTR_MAX, UINTPTR_MAX - 1 };
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        unknown_to_all((void *)bits[i], 1, 1, 1, 1, 1);
    }
    uint64_t state = 20261123;
    for (int i = 0; i < 200; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        unknown_to_all((void *)(uintptr_t)state, 1, 1, 1, 1, 1);
    }

    ce_cancel *cancel;
    ce_metas *metas;
    ce_checkpoint *checkpoint;
    ce_server *server;
    ce_join_options options = pair_options(pair, CE_TO_NULL);
    ce_join *join = start(pair, &options);
    OK(ce_join_wait(join, CE_FOREVER));
    MUST(ce_cancel_create(&cancel));
    MUST(ce_server_metas(pair->holder, "m", &metas));
    MUST(ce_server_checkpoint(pair->holder, "m", &checkpoint));
    MUST(ce_server_create(NULL, &server));

    /* bits near a good handle: whatever they are made of, neighbours must not hit something else */
    for (int bit = 0; bit < 64; bit++) {
        void *near = (void *)((uintptr_t)checkpoint ^ ((uintptr_t)1 << bit));
        if (near != (void *)cancel && near != (void *)metas && near != (void *)server && near != (void *)join && near != (void *)pair->holder
            && near != (void *)pair->joiner) {
            unknown_to_all(near, 1, 1, 1, 1, 1);
        }
    }

    /* of another kind */
    unknown_to_all(cancel, 0, 1, 1, 1, 1);
    unknown_to_all(metas, 1, 0, 1, 1, 1);
    unknown_to_all(checkpoint, 1, 1, 0, 1, 1);
    unknown_to_all(server, 1, 1, 1, 0, 1);
    unknown_to_all(join, 1, 1, 1, 1, 0);
    IS(CE_E_HANDLE, ce_server_load_metas(pair->holder, "x", (ce_metas *)checkpoint));
    options.metas_url = NULL;
    options.metas = (ce_metas *)cancel;
    join_ends_with(pair, &options, CE_E_HANDLE);
    CHECK(ce_checkpoint_tensor_count(checkpoint) == MODEL_TENSORS);      /* and none of that has hurt them */
    CHECK(ce_metas_tensor_count(metas) == MODEL_TENSORS);

    /* destroyed: twice, and everything with a stale one, also when its place has been taken again */
    OK(ce_cancel_destroy(cancel));
    OK(ce_metas_destroy(metas));
    OK(ce_checkpoint_destroy(checkpoint));
    OK(ce_server_destroy(server));
    OK(ce_join_destroy(join));
    unknown_to_all(cancel, 1, 1, 1, 1, 1);
    unknown_to_all(metas, 1, 1, 1, 1, 1);
    unknown_to_all(checkpoint, 1, 1, 1, 1, 1);
    unknown_to_all(server, 1, 1, 1, 1, 1);
    unknown_to_all(join, 1, 1, 1, 1, 1);
    ce_cancel *others[100];
    for (int i = 0; i < 100; i++) {
        MUST(ce_cancel_create(&others[i]));
    }
    unknown_to_all(cancel, 1, 1, 1, 1, 1);
    unknown_to_all(metas, 1, 1, 1, 1, 1);
    unknown_to_all(server, 1, 1, 1, 1, 1);
    options.metas = metas;
    join_ends_with(pair, &options, CE_E_HANDLE);
    for (int i = 0; i < 100; i++) {
        OK(ce_cancel_destroy(others[i]));
    }
}

/* ---- struct_size ---- */

/* A block of exactly that many bytes with the beginning of a struct, its size entered. */
static void *block_of(const void *from, size_t from_size, size_t size, unsigned char tail) {
    unsigned char *block = (unsigned char *)malloc(size < sizeof(size_t) ? sizeof(size_t) : size);
    memset(block, tail, size < sizeof(size_t) ? sizeof(size_t) : size);
    memcpy(block, from, size < from_size ? (size < sizeof(size_t) ? sizeof(size_t) : size) : from_size);
    memcpy(block, &size, sizeof size);
    return block;
}

static void struct_sizes(struct pair *pair) {
    ce_server_options server_options = { .struct_size = sizeof server_options };
    ce_fetch_options fetch_options = { .struct_size = sizeof fetch_options };
    ce_register_options register_options = { .struct_size = sizeof register_options };
    ce_join_options join_options = pair_options(pair, CE_TO_NULL);
    const size_t wrong[] = { 0, 1, sizeof(size_t) - 1, SIZE_MAX, SIZE_MAX / 2 };
    void *block;
    ce_server *server = NULL;
    ce_metas *metas = NULL;
    ce_join *join = NULL;

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        /* A size beyond all sense is refused for what it is: nobody reads that far to see whether it is zero. */
        server_options.struct_size = fetch_options.struct_size = join_options.struct_size = wrong[i];
        IS(CE_E_ARGUMENT, ce_server_create(&server_options, &server));
        IS(CE_E_ARGUMENT, ce_metas_fetch(pair->url, &fetch_options, NULL, &metas));
        register_options.struct_size = wrong[i];
        IS(CE_E_ARGUMENT, ce_server_register_files_with(pair->holder, "x", &directory, 1, &register_options, NULL));
        IS(CE_E_ARGUMENT, ce_join_start(pair->joiner, &join_options, &join));
        ce_join_options with_fetch = pair_options(pair, CE_TO_NULL);
        with_fetch.fetch = &fetch_options;
        IS(CE_E_ARGUMENT, ce_join_start(pair->joiner, &with_fetch, &join));
    }
    /* Smaller than in 0.2, where these structs appeared. */
    block = block_of(&server_options, sizeof server_options, 64 - 4, 0);
    IS(CE_E_ARGUMENT, ce_server_create((ce_server_options *)block, &server));
    free(block);
    block = block_of(&server_options, sizeof server_options, sizeof(size_t), 0);
    IS(CE_E_ARGUMENT, ce_server_create((ce_server_options *)block, &server));
    free(block);
    block = block_of(&fetch_options, sizeof fetch_options, sizeof fetch_options - 8, 0);
    IS(CE_E_ARGUMENT, ce_metas_fetch(pair->url, (ce_fetch_options *)block, NULL, &metas));
    free(block);
    block = block_of(&join_options, sizeof join_options, 160 - 4, 0);
    IS(CE_E_ARGUMENT, ce_join_start(pair->joiner, (ce_join_options *)block, &join));
    free(block);
    /* As large as in 0.2: an older caller. */
    server_options.struct_size = join_options.struct_size = fetch_options.struct_size = sizeof(size_t);
    block = block_of(&server_options, sizeof server_options, 64, 0);
    if (OK(ce_server_create((ce_server_options *)block, &server))) {
        OK(ce_server_destroy(server));
    }
    free(block);
    block = block_of(&join_options, sizeof join_options, 160, 0);
    if (OK(ce_join_start(pair->joiner, (ce_join_options *)block, &join))) {
        OK(ce_join_wait(join, CE_FOREVER));
        void *report = block_of(&join_options, 0, 96, 0xAA);
        OK(ce_join_get_report(join, (ce_join_report *)report));
        CHECK(((ce_join_report *)report)->tensors != 0);
        free(report);
        OK(ce_join_destroy(join));
    }
    free(block);
    /* A newer caller's, with and without something that this library does not know. */
    for (size_t more = 8; more <= 64; more += 56) {
        block = block_of(&server_options, sizeof server_options, sizeof server_options + more, 0);
        if (OK(ce_server_create((ce_server_options *)block, &server))) {
            OK(ce_server_destroy(server));
        }
        ((unsigned char *)block)[sizeof server_options + more - 1] = 1;
        IS(CE_E_ARGUMENT, ce_server_create((ce_server_options *)block, &server));
        free(block);
        block = block_of(&fetch_options, sizeof fetch_options, sizeof fetch_options + more, 0);
        if (OK(ce_metas_fetch(pair->url, (ce_fetch_options *)block, NULL, &metas))) {
            OK(ce_metas_destroy(metas));
        }
        ((unsigned char *)block)[sizeof fetch_options] = 1;
        IS(CE_E_ARGUMENT, ce_metas_fetch(pair->url, (ce_fetch_options *)block, NULL, &metas));
        free(block);
        block = block_of(&join_options, sizeof join_options, sizeof join_options + more, 0);
        if (OK(ce_join_start(pair->joiner, (ce_join_options *)block, &join))) {
            OK(ce_join_wait(join, CE_FOREVER));
            OK(ce_join_destroy(join));
        }
        ((unsigned char *)block)[sizeof join_options + more - 1] = 1;
        IS(CE_E_ARGUMENT, ce_join_start(pair->joiner, (ce_join_options *)block, &join));
        free(block);
    }

    /* What the library fills: what fits is written, the rest left alone. */
    ce_join_options options = pair_options(pair, CE_TO_NULL);
    join = start(pair, &options);
    OK(ce_join_wait(join, CE_FOREVER));
    ce_join_progress progress = { .struct_size = sizeof progress };
    ce_join_report report = { .struct_size = sizeof report };
    OK(ce_join_poll(join, &progress));
    OK(ce_join_get_report(join, &report));
    for (size_t i = 0; i < 3; i++) {
        progress.struct_size = report.struct_size = i;
        IS(CE_E_ARGUMENT, ce_join_poll(join, &progress));
        IS(CE_E_ARGUMENT, ce_join_get_report(join, &report));
    }
    block = block_of(&progress, 0, sizeof progress + 32, 0xAA);
    OK(ce_join_poll(join, (ce_join_progress *)block));
    CHECK(((ce_join_progress *)block)->state == CE_JOIN_DONE);
    CHECK(((ce_join_progress *)block)->struct_size == sizeof progress + 32);
    for (size_t i = sizeof progress; i < sizeof progress + 32; i++) {
        CHECK(((unsigned char *)block)[i] == 0xAA);
    }
    free(block);
    block = block_of(&report, 0, sizeof report + 32, 0xAA);
    OK(ce_join_get_report(join, (ce_join_report *)block));
    CHECK(((ce_join_report *)block)->tensors == MODEL_TENSORS);
    for (size_t i = sizeof report; i < sizeof report + 32; i++) {
        CHECK(((unsigned char *)block)[i] == 0xAA);
    }
    free(block);
    OK(ce_join_destroy(join));
}

/* ---- Strings and buffers ---- */

static void strings(struct pair *pair) {
    ce_server *server = NULL;
    ce_metas *metas = NULL;
    ce_checkpoint *checkpoint = NULL;
    ce_tensor tensor;
    const char *path = not_utf8;

    IS(CE_E_ARGUMENT, ce_metas_fetch(not_utf8, NULL, NULL, &metas));
    ce_fetch_options fetch = { .struct_size = sizeof fetch, .token = not_utf8 };
    IS(CE_E_ARGUMENT, ce_metas_fetch(pair->url, &fetch, NULL, &metas));
    IS(CE_E_ARGUMENT, ce_server_register_files(pair->holder, not_utf8, &directory, 1, NULL));
    IS(CE_E_ARGUMENT, ce_server_register_files(pair->holder, "x", &path, 1, NULL));
    IS(CE_E_ARGUMENT, ce_server_begin_update(pair->holder, not_utf8));
    IS(CE_E_ARGUMENT, ce_server_commit_update(pair->holder, not_utf8));
    IS(CE_E_ARGUMENT, ce_server_unregister(pair->holder, not_utf8));
    IS(CE_E_ARGUMENT, ce_server_unregister_force(pair->holder, not_utf8));
    IS(CE_E_ARGUMENT, ce_server_register_files_with(pair->holder, "x", &path, 1, NULL, NULL));
    IS(CE_E_ARGUMENT, ce_server_metas(pair->holder, not_utf8, &metas));
    IS(CE_E_ARGUMENT, ce_server_checkpoint(pair->holder, not_utf8, &checkpoint));
    ce_server_options server_options = { .struct_size = sizeof server_options, .address = not_utf8 };
    IS(CE_E_ARGUMENT, ce_server_create(&server_options, &server));
    server_options.address = NULL;
    server_options.token = not_utf8;
    IS(CE_E_ARGUMENT, ce_server_create(&server_options, &server));
    server_options.token = NULL;
    server_options.plain_peers = not_utf8;
    IS(CE_E_ARGUMENT, ce_server_create(&server_options, &server));
    tensor = pair->model.tensors[0];
    tensor.name = not_utf8;
    IS(CE_E_ARGUMENT, ce_server_register_tensors(pair->joiner, "x", &tensor, 1));
    const char *patterns[] = { not_utf8 };
    ce_join_options options = pair_options(pair, CE_TO_NULL);
    options.include = patterns;
    options.include_count = 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_NULL);
    options.metas_url = not_utf8;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_MEMORY);
    options.checkpoint_name = not_utf8;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_DIRECTORY);
    options.directory = not_utf8;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    /* overlong, a surrogate, beyond Unicode, cut off */
    const char *const others[] = { "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "ok\x80" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        IS(CE_E_ARGUMENT, ce_server_checkpoint(pair->holder, others[i], &checkpoint));
    }

    /* names: 1 to 255 bytes */
    char longest[257];
    memset(longest, 'n', 256);
    longest[256] = 0;
    IS(CE_E_ARGUMENT, ce_server_register_tensors(pair->joiner, "", pair->model.tensors, 1));
    IS(CE_E_ARGUMENT, ce_server_register_tensors(pair->joiner, longest, pair->model.tensors, 1));
    OK(ce_server_register_tensors(pair->joiner, longest + 1, pair->model.tensors, 1));
    OK(ce_server_unregister(pair->joiner, longest + 1));

    /* buffers: every capacity up to the one that fits */
    char url[256];
    size_t size = sizeof url;
    OK(ce_server_peer_url(pair->holder, url, &size));
    size_t needed = strlen(url) + 1;
    CHECK(size == needed);
    size = 0;
    IS(CE_E_BUFFER_TOO_SMALL, ce_server_peer_url(pair->holder, NULL, &size));
    CHECK(size == needed);
    for (size_t capacity = 0; capacity <= needed + 1; capacity++) {
        char *buffer = (char *)malloc(capacity + 1);
        memset(buffer, 'z', capacity + 1);
        size = capacity;
        IS(capacity < needed ? CE_E_BUFFER_TOO_SMALL : CE_OK, ce_server_peer_url(pair->holder, buffer, &size));
        CHECK(size == needed);
        CHECK(buffer[capacity] == 'z');
        CHECK(capacity < needed || strcmp(buffer, url) == 0);
        free(buffer);
    }
    /* the text of an error, by the same rules; asking for it does not change it */
    IS(CE_E_NOT_FOUND, ce_server_checkpoint(pair->holder, "nowhere to be found", &checkpoint));
    size = 0;
    CHECK(ce_last_error(NULL, &size) == CE_E_BUFFER_TOO_SMALL);
    char *text = (char *)malloc(size);
    size_t exact = size;
    CHECK(ce_last_error(text, &size) == CE_OK);
    CHECK(size == exact && strlen(text) + 1 == exact);
    CHECK(strstr(text, "nowhere to be found") != NULL);
    size = 3;
    CHECK(ce_last_error(text, &size) == CE_E_BUFFER_TOO_SMALL);
    CHECK(size == exact);
    OK(ce_server_checkpoint(pair->holder, "m", &checkpoint));
    size = exact;
    CHECK(ce_last_error(text, &size) == CE_OK && strstr(text, "nowhere to be found") != NULL);      /* a call that succeeds leaves it alone */
    free(text);
    OK(ce_checkpoint_destroy(checkpoint));
    OK(ce_server_metas(pair->holder, "m", &metas));
    size = 2;
    char two[2];
    IS(CE_E_BUFFER_TOO_SMALL, ce_metas_owner(metas, 0, NULL, two, &size));
    CHECK(size > 10);
    OK(ce_metas_destroy(metas));
}

static void *error_of_another_thread(void *unused) {
    char text[64] = "x";
    size_t size = sizeof text;
    (void)unused;
    CHECK(ce_last_error(text, &size) == CE_OK);
    CHECK(size == 1 && text[0] == 0);      /* nothing has failed in this thread */
    IS(CE_E_HANDLE, ce_join_cancel(NULL));
    return NULL;
}

static void errors_by_thread(struct pair *pair) {
    ce_checkpoint *checkpoint;
    char text[512];
    size_t size = sizeof text;
    IS(CE_E_NOT_FOUND, ce_server_checkpoint(pair->holder, "mine alone", &checkpoint));
    thread_end(thread_start(error_of_another_thread, NULL));
    CHECK(ce_last_error(text, &size) == CE_OK && strstr(text, "mine alone") != NULL);
}

/* ---- Numbers and descriptions ---- */

static void tensor_is_refused(struct pair *pair, const ce_tensor *tensor) {
    IS(CE_E_ARGUMENT, ce_server_register_tensors(pair->joiner, "bad", tensor, 1));
    ce_join_options options = pair_options(pair, CE_TO_TENSORS);
    options.tensors = tensor;
    options.tensor_count = 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
}

static void tensors(struct pair *pair) {
    const ce_tensor good = pair->model.tensors[0];
    ce_tensor bad = good;
    bad.name = NULL;
    tensor_is_refused(pair, &bad);
    bad.name = "";
    tensor_is_refused(pair, &bad);
    bad = good;
    bad.shape = NULL;
    tensor_is_refused(pair, &bad);
    bad = good;
    bad.data = NULL;
    tensor_is_refused(pair, &bad);
    bad = good;
    bad.dtype = 24;
    tensor_is_refused(pair, &bad);
    bad.dtype = UINT32_MAX;
    tensor_is_refused(pair, &bad);
    bad.dtype = CE_DTYPE_UNKNOWN;
    tensor_is_refused(pair, &bad);
    bad = good;
    bad.size_bytes -= 1;
    tensor_is_refused(pair, &bad);
    bad.size_bytes = UINT64_MAX;
    tensor_is_refused(pair, &bad);
    bad = good;
    bad.rank = UINT32_MAX;      /* nobody walks that far: a limit comes first */
    tensor_is_refused(pair, &bad);
    const int64_t shapes[][2] = { { -1, 4 }, { 4, INT64_MIN }, { INT64_MAX, INT64_MAX }, { INT64_MAX, 2 }, { 1ll << 32, 1ll << 32 }, { INT64_MAX, 1 } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bad = good;
        bad.shape = shapes[i];
        bad.size_bytes = 0;
        tensor_is_refused(pair, &bad);
    }
    bad = good;
    bad.data = (void *)(UINTPTR_MAX - 100);      /* its end wraps */
    tensor_is_refused(pair, &bad);
    const int64_t three_nibbles[] = { 3 };
    bad = good;
    bad.dtype = CE_DTYPE_F4;
    bad.shape = three_nibbles;
    bad.rank = 1;
    bad.size_bytes = 0;
    tensor_is_refused(pair, &bad);               /* twelve bits are no whole bytes */

    /* twice the same name, and among good ones */
    ce_tensor several[3] = { pair->model.tensors[0], pair->model.tensors[2], pair->model.tensors[0] };
    IS(CE_E_ARGUMENT, ce_server_register_tensors(pair->joiner, "bad", several, 3));
    ce_join_options options = pair_options(pair, CE_TO_TENSORS);
    options.tensors = several;
    options.tensor_count = 3;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    several[2] = good;
    several[2].dtype = 99;
    several[2].name = "the third";
    IS(CE_E_ARGUMENT, ce_server_register_tensors(pair->joiner, "bad", several, 3));
    char text[512] = "";
    size_t size = sizeof text;
    CHECK(ce_last_error(text, &size) == CE_OK && strstr(text, "the third") != NULL);
    ce_checkpoint *none = (ce_checkpoint *)UNTOUCHED;
    IS(CE_E_NOT_FOUND, ce_server_checkpoint(pair->joiner, "bad", &none));      /* all or nothing */
    CHECK(none == NULL);

    /* names and memory that are taken; a server that only joins holds too */
    IS(CE_E_ALREADY_EXISTS, ce_server_register_tensors(pair->holder, "m", pair->model.tensors, MODEL_TENSORS));
    IS(CE_E_ALREADY_EXISTS, ce_server_register_tensors(pair->holder, "another", pair->model.tensors, 1));
}

static void numbers(struct pair *pair) {
    ce_server *server = (ce_server *)UNTOUCHED;
    ce_server_options good = { .struct_size = sizeof good };
    ce_server_options bad = good;
    const char *const addresses[] = { "", "nonsense", "0.0.0.0", "::", "127.0.0.1:80", "256.1.1.1", "localhost" };
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        bad.address = addresses[i];
        IS(CE_E_ARGUMENT, ce_server_create(&bad, &server));
        CHECK(server == NULL);
    }
    bad.address = "192.0.2.1";      /* a documentation address: not of this host */
    EITHER(CE_E_NATIVE, CE_E_UNREACHABLE, ce_server_create(&bad, &server));
    bad = good;
    bad.plain_peers = "10.0.0.0/99";
    IS(CE_E_ARGUMENT, ce_server_create(&bad, &server));
    bad.plain_peers = "somebody";
    IS(CE_E_ARGUMENT, ce_server_create(&bad, &server));
    bad = good;
    bad.flags = 16;
    IS(CE_E_ARGUMENT, ce_server_create(&bad, &server));
    bad = good;
    bad.port = 65536;
    IS(CE_E_ARGUMENT, ce_server_create(&bad, &server));
    bad = good;
    bad.hold = 3;
    IS(CE_E_ARGUMENT, ce_server_create(&bad, &server));
    bad = good;
    bad.pin = 3;
    IS(CE_E_ARGUMENT, ce_server_create(&bad, &server));
    bad = good;
    bad.digest = 3;
    IS(CE_E_ARGUMENT, ce_server_create(&bad, &server));

    /* a port that is taken: the one of the other server */
    char p2p[128];
    size_t size = sizeof p2p;
    OK(ce_server_p2p_address(pair->holder, p2p, &size));
    bad = good;
    bad.port = (uint32_t)atoi(strrchr(p2p, ':') + 1);
    EITHER(CE_E_ALREADY_EXISTS, CE_E_NATIVE, ce_server_create(&bad, &server));

    ce_join_options options = pair_options(pair, 5);
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_NULL);
    options.verify = 3;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_NULL);
    options.transport = CE_TRANSPORT_MOONCAKE + 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_NULL);
    options.reserved = 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_NULL);
    options.metas_url = NULL;
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* neither */
    options = pair_options(pair, CE_TO_NULL);
    MUST(ce_server_metas(pair->holder, "m", &options.metas));
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* both */
    const char *replicas[] = { pair->url, NULL };
    options.metas_url = NULL;
    options.replica_urls = replicas;
    options.replica_count = 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* metas with replicas */
    OK(ce_metas_destroy(options.metas));
    options.metas = NULL;
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* replicas of nothing */
    options = pair_options(pair, CE_TO_NULL);
    options.replica_count = 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* 1 with NULL */
    options.replica_urls = replicas;
    options.replica_count = 2;
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* a NULL among them */
    options.replica_count = (size_t)1 << 40;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    replicas[0] = not_utf8;
    options.replica_count = 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_NULL);
    options.earlier_checkpoint = not_utf8;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_BUCKETS);
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* no callback */
    options = pair_options(pair, CE_TO_DIRECTORY);
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* no directory */
    options = pair_options(pair, CE_TO_TENSORS);
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* no tensors */

    /* counts that lie */
    const char *patterns[] = { "layer.*", NULL };
    options = pair_options(pair, CE_TO_NULL);
    options.include_count = 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* 1 with NULL */
    options.include = patterns;
    options.include_count = 2;
    join_ends_with(pair, &options, CE_E_ARGUMENT);                     /* a NULL among them */
    options.include_count = 0;
    ce_join *join = start(pair, &options);                             /* 0 with a pointer is none */
    OK(ce_join_wait(join, CE_FOREVER));
    ce_join_report report = { .struct_size = sizeof report };
    OK(ce_join_get_report(join, &report));
    CHECK(report.tensors == MODEL_TENSORS);
    OK(ce_join_destroy(join));
    options = pair_options(pair, CE_TO_NULL);
    options.exclude_count = 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options = pair_options(pair, CE_TO_TENSORS);
    options.tensor_count = 1;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
    options.tensors = pair->model.tensors;
    options.tensor_count = 0;
    join_ends_with(pair, &options, CE_E_ARGUMENT);
}

/* ---- Documents, files, addresses ---- */

/* A socket of our own that listens and, until somebody accepts, says nothing. */
static int silent_listener(char *url) {
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 8) != 0
        || getsockname(listener, (struct sockaddr *)&address, &length) != 0) {
        perror("listener");
        exit(1);
    }
    sprintf(url, "ce://127.0.0.1:%d/m", ntohs(address.sin_port));
    return listener;
}

/* Drops the connections that came and were given up. */
static void forget_waiting(int listener) {
    struct pollfd waiting = { .fd = listener, .events = POLLIN };
    while (poll(&waiting, 1, 0) == 1) {
        close(accept(listener, NULL, NULL));
    }
}

struct fetching {
    const char *url;
    ce_cancel *cancel;
};

static void *fetch_until_cancelled(void *argument) {
    struct fetching *fetching = (struct fetching *)argument;
    ce_metas *metas = (ce_metas *)UNTOUCHED;
    IS(CE_E_CANCELLED, ce_metas_fetch(fetching->url, NULL, fetching->cancel, &metas));
    CHECK(metas == NULL);
    return NULL;
}

static void documents_and_addresses(struct pair *pair) {
    ce_metas *metas = (ce_metas *)UNTOUCHED;
    const char *const garbage[] = { "", " ", "{", "[]", "nul", "{\"0\":7}", "{\"0\":{\"memory_buffer_metas_list\":[{\"ptr\":-1}]}}", "\x80", "\x80\x04.", "\x80\x04\x8c" };
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        size_t length = strlen(garbage[i]);
        char *block = (char *)malloc(length == 0 ? 1 : length);
        memcpy(block, garbage[i], length);
        EITHER(CE_E_INVALID_DATA, CE_E_WRONG_SHAPE, ce_metas_parse(block, length, &metas));
        CHECK(metas == NULL);
        free(block);
    }

    const char *const malformed[] = { "", "nonsense", "ftp://x/y", "ce://", "ce://127.0.0.1", "ce://127.0.0.1:99999/m", "unix:" };
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        EITHER(CE_E_ARGUMENT, CE_E_INVALID_DATA, ce_metas_fetch(malformed[i], NULL, NULL, &metas));
    }
    char url[300];
    char path[2048];
    snprintf(path, sizeof path, "file://%s/not-there.json", directory);
    IS(CE_E_NOT_FOUND, ce_metas_fetch(path, NULL, NULL, &metas));
    snprintf(path, sizeof path, "%s/garbage.safetensors", directory);
    FILE *file = fopen(path, "wb");
    fputs("this is no checkpoint", file);
    fclose(file);
    const char *as_path = path;
    IS(CE_E_INVALID_DATA, ce_server_register_files(pair->holder, "garbage", &as_path, 1, NULL));
    memmove(path + 7, path, strlen(path) + 1);
    memcpy(path, "file://", 7);
    IS(CE_E_INVALID_DATA, ce_metas_fetch(path, NULL, NULL, &metas));
    snprintf(path, sizeof path, "%s/not-there", directory);
    IS(CE_E_NOT_FOUND, ce_server_register_files(pair->holder, "garbage", &as_path, 1, NULL));
    ce_checkpoint *checkpoint;
    IS(CE_E_NOT_FOUND, ce_server_checkpoint(pair->holder, "garbage", &checkpoint));
    IS(CE_E_NOT_FOUND, ce_server_unregister(pair->holder, "garbage"));

    snprintf(url, sizeof url, "%s-and-not-there", pair->url);
    IS(CE_E_NOT_FOUND, ce_metas_fetch(url, NULL, NULL, &metas));
    ce_join_options options = pair_options(pair, CE_TO_NULL);
    options.metas_url = url;
    join_ends_with(pair, &options, CE_E_NOT_FOUND);

    /* nobody there, somebody silent, cancelled before and meanwhile */
    ce_cancel *cancel;
    ce_fetch_options fetch = { .struct_size = sizeof fetch, .timeout_ms = 100 };
    int listener = silent_listener(url);
    IS(CE_E_TIMEOUT, ce_metas_fetch(url, &fetch, NULL, &metas));
    options = pair_options(pair, CE_TO_NULL);
    options.metas_url = url;
    options.fetch = &fetch;
    join_ends_with(pair, &options, CE_E_TIMEOUT);
    options.fetch = NULL;
    options.timeout_ms = 100;
    join_ends_with(pair, &options, CE_E_TIMEOUT);
    forget_waiting(listener);
    MUST(ce_cancel_create(&cancel));
    struct fetching fetching = { url, cancel };
    pthread_t fetcher = thread_start(fetch_until_cancelled, &fetching);
    int connection = accept(listener, NULL, NULL);      /* now it waits for an answer */
    OK(ce_cancel_trigger(cancel));
    OK(ce_cancel_trigger(cancel));
    thread_end(fetcher);
    close(connection);
    close(listener);
    fetch_until_cancelled(&fetching);                   /* it stays triggered */
    IS(CE_E_CANCELLED, ce_server_register_files(pair->holder, "x", &directory, 1, cancel));
    OK(ce_cancel_destroy(cancel));
    IS(CE_E_UNREACHABLE, ce_metas_fetch(url, NULL, NULL, &metas));
    options = pair_options(pair, CE_TO_NULL);
    options.metas_url = url;
    join_ends_with(pair, &options, CE_E_UNREACHABLE);

    /* a cancel may go before the call that it is to end: that call goes on, or ends as cancelled */
    listener = silent_listener(url);
    MUST(ce_cancel_create(&cancel));
    fetching.cancel = cancel;
    fetcher = thread_start(fetch_until_cancelled, &fetching);
    connection = accept(listener, NULL, NULL);
    OK(ce_cancel_trigger(cancel));
    OK(ce_cancel_destroy(cancel));
    thread_end(fetcher);
    close(connection);
    close(listener);

    /* a token that is wrong or missing */
    ce_server_options guarded_options = { .struct_size = sizeof guarded_options, .token = "a long secret" };
    ce_server *guarded;
    struct model model;
    model_make(&model, 5);
    MUST(ce_server_create(&guarded_options, &guarded));
    MUST(ce_server_register_tensors(guarded, "m", model.tensors, MODEL_TENSORS));
    size_t size = sizeof url;
    OK(ce_server_peer_url(guarded, url, &size));
    strcat(url, "/m");
    IS(CE_E_REFUSED, ce_metas_fetch(url, NULL, NULL, &metas));
    fetch = (ce_fetch_options){ .struct_size = sizeof fetch, .token = "a wrong secret" };
    IS(CE_E_REFUSED, ce_metas_fetch(url, &fetch, NULL, &metas));
    fetch.token = "a long secret";
    if (OK(ce_metas_fetch(url, &fetch, NULL, &metas))) {
        OK(ce_metas_destroy(metas));
    }
    OK(ce_server_destroy(guarded));
    model_free(&model);
}

/* ---- Not now ---- */

static void states(struct pair *pair) {
    char text[128];
    size_t size = sizeof text;
    ce_metas *metas;
    ce_checkpoint *checkpoint;
    IS(CE_E_STATE, ce_server_peer_url(pair->joiner, text, &size));
    IS(CE_E_STATE, ce_server_p2p_address(pair->joiner, text, &size));
    struct model model;
    model_make(&model, 3);
    OK(ce_server_register_tensors(pair->joiner, "mine", model.tensors, MODEL_TENSORS));
    IS(CE_E_STATE, ce_server_metas(pair->joiner, "mine", &metas));
    OK(ce_server_unregister(pair->joiner, "mine"));

    IS(CE_E_NOT_FOUND, ce_server_begin_update(pair->holder, "nobody"));
    IS(CE_E_NOT_FOUND, ce_server_commit_update(pair->holder, "nobody"));
    IS(CE_E_STATE, ce_server_commit_update(pair->holder, "m"));
    OK(ce_server_begin_update(pair->holder, "m"));
    IS(CE_E_STATE, ce_server_begin_update(pair->holder, "m"));
    IS(CE_E_BUSY, ce_server_metas(pair->holder, "m", &metas));
    IS(CE_E_BUSY, ce_metas_fetch(pair->url, NULL, NULL, &metas));
    ce_join_options options = pair_options(pair, CE_TO_NULL);
    join_ends_with(pair, &options, CE_E_BUSY);
    IS(CE_E_ALREADY_EXISTS, ce_server_register_tensors(pair->holder, "m", model.tensors, MODEL_TENSORS));
    OK(ce_server_commit_update(pair->holder, "m"));
    IS(CE_E_STATE, ce_server_commit_update(pair->holder, "m"));
    ce_join *join = start(pair, &options);
    OK(ce_join_wait(join, CE_FOREVER));
    IS(CE_E_STATE, ce_join_checkpoint(join, &checkpoint));
    OK(ce_join_cancel(join));                        /* it has ended, and stays as it is */
    OK(ce_join_wait(join, CE_FOREVER));
    OK(ce_join_destroy(join));
    OK(ce_server_begin_update(pair->holder, "m"));
    OK(ce_server_unregister(pair->holder, "m"));      /* also in the middle of an update */
    IS(CE_E_NOT_FOUND, ce_server_commit_update(pair->holder, "m"));
    OK(ce_server_register_tensors(pair->holder, "m", pair->model.tensors, MODEL_TENSORS));

    /* what a join brought is not the caller's to update */
    options = pair_options(pair, CE_TO_MEMORY);
    options.checkpoint_name = "brought";
    join = start(pair, &options);
    OK(ce_join_wait(join, CE_FOREVER));
    IS(CE_E_STATE, ce_server_begin_update(pair->joiner, "brought"));
    join_ends_with(pair, &options, CE_E_ALREADY_EXISTS);
    OK(ce_server_unregister(pair->joiner, "brought"));
    OK(ce_join_destroy(join));
    model_free(&model);
}

/* ---- Callbacks and joins that are interrupted ---- */

struct held {
    struct gate entered;
    struct gate go_on;
    ce_join *join;
    ce_server *server;
    int calls;
    int ended;                        /* no call may come any more */
    int answer;
};

static const struct held held_new = { .entered = GATE_INIT, .go_on = GATE_INIT };

/* Stops in the first bucket until it is told to go on. */
static int hold_on(void *user, const ce_bucket *bucket) {
    struct held *held = (struct held *)user;
    (void)bucket;
    CHECK(!__atomic_load_n(&held->ended, __ATOMIC_SEQ_CST));
    if (held->calls++ == 0) {
        gate_open(&held->entered);
        gate_wait(&held->go_on);
    }
    return held->answer;
}

static ce_join *start_held(struct pair *pair, struct held *held) {
    ce_join_options options = pair_options(pair, CE_TO_BUCKETS);
    options.on_bucket = hold_on;
    options.user = held;
    options.bucket_bytes = 1;
    return start(pair, &options);
}

static int refuse_second(void *user, const ce_bucket *bucket) {
    int *calls = (int *)user;
    (void)bucket;
    return ++*calls == 2 ? 42 : 0;
}

static int ask_from_inside(void *user, const ce_bucket *bucket) {
    struct held *held = (struct held *)user;
    ce_join_progress progress = { .struct_size = sizeof progress };
    if (held->calls++ == 0) {
        gate_wait(&held->entered);      /* until the starter has written held->join */
        OK(ce_join_poll(held->join, &progress));
        CHECK(progress.state == CE_JOIN_RUNNING);
        CHECK(progress.buckets_done == bucket->index);
        IS(CE_E_STATE, ce_join_wait(held->join, CE_FOREVER));
        IS(CE_E_STATE, ce_join_destroy(held->join));
        IS(CE_E_STATE, ce_server_destroy(held->server));
        OK(ce_join_cancel(held->join));
    }
    return 0;
}

static void callbacks(struct pair *pair) {
    int calls = 0;
    ce_checkpoint *checkpoint;
    ce_join_progress progress = { .struct_size = sizeof progress };
    ce_join_report report = { .struct_size = sizeof report };
    char text[64];
    size_t size = sizeof text;
    ce_join_options options = pair_options(pair, CE_TO_BUCKETS);
    options.on_bucket = refuse_second;
    options.user = &calls;
    options.bucket_bytes = 1;
    ce_join *join = start(pair, &options);
    IS(CE_E_CALLBACK, ce_join_wait(join, CE_FOREVER));
    IS(CE_E_CALLBACK, ce_join_wait(join, 0));
    CHECK(calls == 2);
    OK(ce_join_poll(join, &progress));
    CHECK(progress.state == CE_JOIN_FAILED && progress.phase == CE_PHASE_ENDED);
    IS(CE_E_STATE, ce_join_get_report(join, &report));
    IS(CE_E_STATE, ce_join_warnings(join, text, &size));
    IS(CE_E_STATE, ce_join_checkpoint(join, &checkpoint));
    OK(ce_join_destroy(join));
    CHECK(calls == 2);

    struct held held = held_new;
    held.server = pair->joiner;
    options.on_bucket = ask_from_inside;
    options.user = &held;
    held.join = start(pair, &options);
    gate_open(&held.entered);
    IS(CE_E_CANCELLED, ce_join_wait(held.join, CE_FOREVER));
    CHECK(held.calls == 1);
    OK(ce_join_poll(held.join, &progress));
    CHECK(progress.state == CE_JOIN_CANCELLED);
    OK(ce_join_destroy(held.join));
}

static void *wait_for_end(void *argument) {
    ce_join *join = (ce_join *)argument;
    EITHER(CE_E_CANCELLED, CE_E_HANDLE, ce_join_wait(join, CE_FOREVER));
    return NULL;
}

static void *destroy_join(void *argument) {
    struct held *held = (struct held *)argument;
    OK(ce_join_destroy(held->join));
    __atomic_store_n(&held->ended, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void *destroy_server(void *argument) {
    struct held *held = (struct held *)argument;
    OK(ce_server_destroy(held->server));
    __atomic_store_n(&held->ended, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* A destroy takes the handle away first, and then ends what it stood for. */
static void until_join_is_gone(ce_join *join) {
    ce_join_progress progress = { .struct_size = sizeof progress };
    while (ce_join_poll(join, &progress) != CE_E_HANDLE) {
        sched_yield();
    }
}

static void until_server_is_gone(ce_server *server) {
    size_t size = 0;
    while (ce_server_peer_url(server, NULL, &size) != CE_E_HANDLE) {
        size = 0;
        sched_yield();
    }
}

static void interruptions(struct pair *pair) {
    ce_join_progress progress = { .struct_size = sizeof progress };
    ce_join_report report = { .struct_size = sizeof report };
    ce_checkpoint *checkpoint;

    /* asked while it runs */
    struct held held = held_new;
    held.join = start_held(pair, &held);
    gate_wait(&held.entered);
    IS(CE_E_PENDING, ce_join_wait(held.join, 0));
    IS(CE_E_PENDING, ce_join_wait(held.join, 1));
    IS(CE_E_STATE, ce_join_get_report(held.join, &report));
    IS(CE_E_STATE, ce_join_checkpoint(held.join, &checkpoint));
    OK(ce_join_poll(held.join, &progress));
    CHECK(progress.state == CE_JOIN_RUNNING);
    CHECK(progress.buckets_done == 0);
    CHECK(progress.bytes_total != 0);
    /* cancelled while it runs: with two who wait */
    pthread_t one = thread_start(wait_for_end, held.join);
    pthread_t two = thread_start(wait_for_end, held.join);
    OK(ce_join_cancel(held.join));
    OK(ce_join_cancel(held.join));
    gate_open(&held.go_on);
    thread_end(one);
    thread_end(two);
    IS(CE_E_CANCELLED, ce_join_wait(held.join, CE_FOREVER));
    CHECK(held.calls == 1);
    OK(ce_join_destroy(held.join));

    /* destroyed while it runs and somebody waits for it */
    held = held_new;
    held.join = start_held(pair, &held);
    gate_wait(&held.entered);
    one = thread_start(wait_for_end, held.join);
    two = thread_start(destroy_join, &held);
    until_join_is_gone(held.join);
    CHECK(!__atomic_load_n(&held.ended, __ATOMIC_SEQ_CST));      /* it cannot be through: the callback runs */
    gate_open(&held.go_on);
    thread_end(one);
    thread_end(two);
    int calls = held.calls;
    IS(CE_E_HANDLE, ce_join_poll(held.join, &progress));
    CHECK(held.calls == calls);

    /* the joining server goes in the middle */
    ce_server *kept = pair->joiner;
    ce_server_options join_only = { .struct_size = sizeof join_only, .flags = CE_SERVER_JOIN_ONLY };
    MUST(ce_server_create(&join_only, &pair->joiner));
    held = held_new;
    held.server = pair->joiner;
    held.join = start_held(pair, &held);
    gate_wait(&held.entered);
    two = thread_start(destroy_server, &held);
    until_server_is_gone(held.server);
    gate_open(&held.go_on);
    thread_end(two);
    IS(CE_E_CANCELLED, ce_join_wait(held.join, CE_FOREVER));      /* the join's own handle is still there */
    OK(ce_join_poll(held.join, &progress));
    CHECK(progress.state == CE_JOIN_CANCELLED);
    OK(ce_join_destroy(held.join));
    pair->joiner = kept;

    /* the holding server goes in the middle: its reader fails, with the transport's reason */
    struct pair other;
    pair_make(&other);
    held = held_new;
    held.join = start_held(&other, &held);
    gate_wait(&held.entered);
    OK(ce_server_destroy(other.holder));
    gate_open(&held.go_on);
    ce_status status = ce_join_wait(held.join, CE_FOREVER);
    CHECK(status == CE_E_UNREACHABLE || status == CE_E_REFUSED || status == CE_E_NOT_FOUND || status == CE_E_TIMEOUT);
    OK(ce_join_destroy(held.join));
    MUST(ce_server_create(NULL, &other.holder));
    pair_free(&other);

    /* the checkpoint goes in the middle, by unregister and by an update; the reader fails and never mixes */
    for (int update = 0; update < 2; update++) {
        pair_make(&other);
        held = held_new;
        held.join = start_held(&other, &held);
        gate_wait(&held.entered);
        if (update) {
            OK(ce_server_begin_update(other.holder, "m"));
            model_fill(&other.model, 77);
            OK(ce_server_commit_update(other.holder, "m"));
        } else {
            OK(ce_server_unregister(other.holder, "m"));
            memset(other.model.memory, 0, MODEL_BYTES);
        }
        gate_open(&held.go_on);
        status = ce_join_wait(held.join, CE_FOREVER);
        if (!CHECK(status == CE_E_REFUSED || status == CE_E_NOT_FOUND || status == CE_E_UNREACHABLE || status == CE_E_DIGEST_MISMATCH || status == CE_E_SUPERSEDED)) {
            fprintf(stderr, "    got %s\n", ce_status_name(status));
        }
        OK(ce_join_destroy(held.join));
        pair_free(&other);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    directory = argv[1];
    struct pair pair;
    test_patience(60);
    pair_make(&pair);
    null_everywhere(&pair);
    wrong_handles(&pair);
    struct_sizes(&pair);
    strings(&pair);
    errors_by_thread(&pair);
    tensors(&pair);
    numbers(&pair);
    documents_and_addresses(&pair);
    states(&pair);
    callbacks(&pair);
    interruptions(&pair);
    pair_free(&pair);
    return test_end("bad input");
}
