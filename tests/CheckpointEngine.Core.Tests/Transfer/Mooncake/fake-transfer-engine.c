/* A stand-in for Mooncake's transfer engine, to see how its C API is called: peers are of this process, a read is a copy that is done when its last
 * poll comes, every call is counted, and failures are made to order. It says nothing about the real library.
 * Source of the API: docs/mooncake-wire.md, section 6. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ENGINES, BATCHES, ALLOCATED, FREED, MISUSES, REGISTERED, SUBMITTED, POLLS, DESTROYED_BUSY, OPENED, COUNTERS };
enum { FAIL_CREATE, FAIL_OPEN, FAIL_REGISTER, FAIL_SUBMIT, FAIL_STATUS, END_AS, FAIL_AFTER, NEVER_ENDS, POLLS_NEEDED, BUSY_FREES, PROTOCOL, SETTINGS };

static long long counters[COUNTERS];
static long long settings[SETTINGS];
long long *fake_counters(void) { return counters; }
long long *fake_settings(void) { return settings; }
#define COUNT(what, by) __atomic_add_fetch(&counters[what], by, __ATOMIC_SEQ_CST)
#define SETTING(what) __atomic_load_n(&settings[what], __ATOMIC_SEQ_CST)

struct transfer_request { int opcode; void *source; int32_t target_id; uint64_t target_offset; uint64_t length; };
struct transfer_status { int status; uint64_t transferred_bytes; };
struct buffer_entry { void *addr; size_t length; };

#define MOST 256
struct task { struct transfer_request request; int polls; int ended; };
struct batch { struct engine *engine; uint64_t id; size_t room, count; int failed; struct task tasks[MOST]; };
struct engine {
    int listener;
    char name[64];
    pthread_t thread;
    pthread_mutex_t lock;
    struct buffer_entry buffers[MOST];
    size_t count;
};

static pthread_mutex_t batches_lock = PTHREAD_MUTEX_INITIALIZER;
static struct batch *batches[MOST];
static uint64_t ids = 0x1000;

static int whole(int fd, void *at, size_t length, int out)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = out ? send(fd, (char *)at + done, length - done, MSG_NOSIGNAL) : recv(fd, (char *)at + done, length - done, 0);
        if (n <= 0)
            return 0;
        done += (size_t)n;
    }
    return 1;
}

static void answer(struct engine *engine, int fd)
{
    uint64_t length;
    static __thread char body[1 << 16];
    if (!whole(fd, &length, 8, 0) || length == 0 || length > sizeof body || !whole(fd, body, length, 0))
        return;
    const char *protocol = SETTING(PROTOCOL) ? "efa" : "tcp";
    char *reply = malloc(MOST * 128 + 1024);
    int at = 9 + sprintf(reply + 9, "{\"buffers\":[");
    pthread_mutex_lock(&engine->lock);
    for (size_t i = 0; i < engine->count; i++)
        at += sprintf(reply + at, "%s{\"addr\":%llu,\"length\":%zu,\"name\":\"%s\"}", i ? "," : "", (unsigned long long)(uintptr_t)engine->buffers[i].addr,
                      engine->buffers[i].length, engine->name);
    pthread_mutex_unlock(&engine->lock);
    at += sprintf(reply + at, "],\"name\":\"%s\",\"protocol\":\"%s\",\"tcp_data_port\":1,\"tcp_proto_version\":2}\n", engine->name, protocol);
    length = (uint64_t)at - 8;
    memcpy(reply, &length, 8);
    reply[8] = body[0];
    if (whole(fd, reply, (size_t)at, 1))
        shutdown(fd, SHUT_WR);
    free(reply);
    while (recv(fd, body, sizeof body, 0) > 0)
        ;
}

static void *listen_on(void *given)
{
    struct engine *engine = given;
    for (int fd; (fd = accept(engine->listener, NULL, NULL)) >= 0; close(fd))
        answer(engine, fd);
    return NULL;
}

void *createTransferEngine(const char *metadata, const char *host, const char *unused, uint64_t port, int discover)
{
    if (SETTING(FAIL_CREATE) > 0 && COUNT(ENGINES, 0) >= 0) {
        __atomic_sub_fetch(&settings[FAIL_CREATE], 1, __ATOMIC_SEQ_CST);
        return NULL;
    }
    if (strcmp(metadata, "P2PHANDSHAKE") != 0 || !unused || port != 0 || discover != 1)
        return NULL;
    struct engine *engine = calloc(1, sizeof *engine);
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof address;
    engine->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(engine->listener, (struct sockaddr *)&address, size) || listen(engine->listener, 16) || getsockname(engine->listener, (struct sockaddr *)&address, &size))
        abort();
    snprintf(engine->name, sizeof engine->name, "%s:%d", host, ntohs(address.sin_port));
    pthread_mutex_init(&engine->lock, NULL);
    pthread_create(&engine->thread, NULL, listen_on, engine);
    COUNT(ENGINES, 1);
    return engine;
}

void destroyTransferEngine(void *given)
{
    struct engine *engine = given;
    pthread_mutex_lock(&batches_lock);
    for (int i = 0; i < MOST; i++)
        if (batches[i] && batches[i]->engine == engine) {
            COUNT(DESTROYED_BUSY, 1);
            free(batches[i]);
            batches[i] = NULL;
        }
    pthread_mutex_unlock(&batches_lock);
    shutdown(engine->listener, SHUT_RDWR);
    pthread_join(engine->thread, NULL);
    close(engine->listener);
    COUNT(REGISTERED, -(long long)engine->count);
    memset(engine, 0x5a, sizeof *engine);       /* who comes back sees it */
    free(engine);
    COUNT(ENGINES, -1);
}

int getLocalIpAndPort(void *engine, char *buffer, size_t length)
{
    snprintf(buffer, length, "%s", ((struct engine *)engine)->name);
    return 0;
}

int32_t openSegment(void *engine, const char *name)
{
    (void)engine;
    COUNT(OPENED, 1);
    return SETTING(FAIL_OPEN) ? (int32_t)SETTING(FAIL_OPEN) : strchr(name, ':') ? 7 : -1;
}

int registerLocalMemoryBatch(void *given, struct buffer_entry *list, size_t count, const char *location)
{
    struct engine *engine = given;
    if (SETTING(FAIL_REGISTER) || strcmp(location, "*") != 0)
        return (int)SETTING(FAIL_REGISTER);
    pthread_mutex_lock(&engine->lock);
    for (size_t i = 0; i < count; i++)
        engine->buffers[engine->count++] = list[i];
    pthread_mutex_unlock(&engine->lock);
    COUNT(REGISTERED, (long long)count);
    return 0;
}

int unregisterLocalMemoryBatch(void *given, void **list, size_t count)
{
    struct engine *engine = given;
    int code = 0;
    pthread_mutex_lock(&engine->lock);
    for (size_t i = 0; i < count; i++) {
        size_t at = 0;
        while (at < engine->count && engine->buffers[at].addr != list[i])
            at++;
        if (at == engine->count) {
            code = -3;
            COUNT(MISUSES, 1);
            continue;
        }
        engine->buffers[at] = engine->buffers[--engine->count];
        COUNT(REGISTERED, -1);
    }
    pthread_mutex_unlock(&engine->lock);
    return code;
}

uint64_t allocateBatchID(void *engine, size_t room)
{
    struct batch *batch = calloc(1, sizeof *batch);
    batch->engine = engine;
    batch->room = room;
    pthread_mutex_lock(&batches_lock);
    int at = 0;
    while (batches[at])
        at++;
    batch->id = (ids += 16);
    batches[at] = batch;
    pthread_mutex_unlock(&batches_lock);
    COUNT(BATCHES, 1);
    COUNT(ALLOCATED, 1);
    return batch->id;
}

/* With the lock held. */
static struct batch **find(void *engine, uint64_t id)
{
    for (int i = 0; i < MOST; i++)
        if (batches[i] && batches[i]->id == id && batches[i]->engine == engine)
            return &batches[i];
    COUNT(MISUSES, 1);
    return NULL;
}

static int is_registered(struct engine *engine, const char *at, size_t length)
{
    int found = 0;
    pthread_mutex_lock(&engine->lock);
    for (size_t i = 0; i < engine->count; i++)
        found |= at >= (char *)engine->buffers[i].addr && at + length <= (char *)engine->buffers[i].addr + engine->buffers[i].length;
    pthread_mutex_unlock(&engine->lock);
    return found;
}

int submitTransfer(void *engine, uint64_t id, struct transfer_request *requests, size_t count)
{
    pthread_mutex_lock(&batches_lock);
    struct batch **batch = find(engine, id);
    int code = !batch ? 1 : (*batch)->count + count > (*batch)->room ? 2 : (int)SETTING(FAIL_SUBMIT);
    for (size_t i = 0; i < count && code == 0; i++) {
        if (requests[i].opcode != 0 || requests[i].target_id != 7 || requests[i].length == 0)
            COUNT(MISUSES, 1);
        if (SETTING(PROTOCOL) && !is_registered(engine, requests[i].source, requests[i].length))
            code = 3;
        else
            (*batch)->tasks[(*batch)->count++].request = requests[i];
        COUNT(SUBMITTED, 1);
    }
    if (batch)
        (*batch)->failed |= code != 0;
    pthread_mutex_unlock(&batches_lock);
    return code;
}

int getTransferStatus(void *engine, uint64_t id, size_t number, struct transfer_status *status)
{
    pthread_mutex_lock(&batches_lock);
    COUNT(POLLS, 1);
    struct batch **batch = find(engine, id);
    int code = !batch || number >= (*batch)->count ? 1 : (int)SETTING(FAIL_STATUS);
    if (batch && (*batch)->failed)
        COUNT(MISUSES, 1);              /* an assertion of the real one, over a request that was never taken in */
    if (code == 0) {
        struct task *task = &(*batch)->tasks[number];
        int wrong = SETTING(END_AS) && SETTING(FAIL_AFTER) < COUNT(SUBMITTED, 0);
        status->status = 0;
        status->transferred_bytes = 0;
        if (task->ended)
            COUNT(MISUSES, 1);          /* asked again after its end */
        else if (wrong) {
            status->status = (int)SETTING(END_AS);
            task->ended = status->status != 5;
        } else if (!SETTING(NEVER_ENDS) && ++task->polls > SETTING(POLLS_NEEDED)) {
            memcpy(task->request.source, (void *)(uintptr_t)task->request.target_offset, task->request.length);
            status->status = 4;
            status->transferred_bytes = task->request.length;
            task->ended = 1;
        }
    }
    pthread_mutex_unlock(&batches_lock);
    return code;
}

int freeBatchID(void *engine, uint64_t id)
{
    pthread_mutex_lock(&batches_lock);
    struct batch **batch = find(engine, id);
    int code = !batch ? 1 : (*batch)->failed ? 4 : 0;
    for (size_t i = 0; batch && i < (*batch)->count; i++)
        code = (*batch)->tasks[i].ended ? code : 4;
    if (code == 0 && SETTING(BUSY_FREES) > 0) {
        __atomic_sub_fetch(&settings[BUSY_FREES], 1, __ATOMIC_SEQ_CST);
        code = 4;
    }
    if (code == 0) {
        free(*batch);
        *batch = NULL;
        COUNT(BATCHES, -1);
        COUNT(FREED, 1);
    }
    pthread_mutex_unlock(&batches_lock);
    return code;
}
