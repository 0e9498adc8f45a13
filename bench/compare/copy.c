/* The limits of a copy inside one host: memcpy, and process_vm_readv out of another process, with nothing between the calls.
 *
 *   copy memcpy anon|memfd BLOCK BYTES THREADS warm|fresh ROUNDS      out of anonymous memory, or a memfd mapped read-only
 *   copy hold BYTES                                                   prints its pid and an address, holds that many bytes until its stdin ends
 *   copy read PID ADDRESS BLOCK BYTES THREADS warm|fresh ROUNDS       out of what 'hold' holds
 *
 * memcpy and read print the seconds of each round, one a line. A block is copied again and again, one call a block, each thread its own block,
 * until BYTES are copied by all threads together; blocks that are larger than a thread's share are cut to it.
 * warm: each thread into one block's room that was written before. fresh: into BYTES of memory that nobody has touched; mmap, madvise and the
 * page faults are inside the time, munmap is not. Anonymous memory is in huge pages where the kernel has them.
 */
#include "../Shared/region.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_THREADS = 256 };

static pid_t holder;                    /* 0: memcpy */
static uint64_t block, share_bytes;     /* of one thread */
static int fresh;

static void fill(char *memory, size_t bytes) {
    for (size_t i = 0; i + 8 <= bytes; i += 8) *(uint64_t *)(memory + i) = i * 0x9E3779B97F4A7C15ull;
}

static char *map_memfd(size_t bytes) {
    int file = memfd_create("copy", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)bytes) != 0) fail("memfd_create");
    char *written = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (written == MAP_FAILED) fail("mmap of the memfd");
    fill(written, bytes);
    munmap(written, bytes);
    char *mapping = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    if (mapping == MAP_FAILED) fail("mmap of the memfd");
    return mapping;
}

typedef struct {
    char *source, *destination;
} share;

static void *copy_share(void *argument) {
    share *s = argument;
    for (uint64_t at = 0; at < share_bytes; at += block) {
        size_t n = block < share_bytes - at ? block : share_bytes - at;
        char *destination = s->destination + (fresh ? at : 0);
        if (holder == 0) {
            memcpy(destination, s->source, n);
            __asm__ volatile("" ::: "memory");
        } else {
            for (size_t done = 0; done < n;) {
                struct iovec local = {destination + done, n - done}, remote = {s->source + done, n - done};
                ssize_t got = process_vm_readv(holder, &local, 1, &remote, 1, 0);
                if (got <= 0) fail("process_vm_readv");
                done += (size_t)got;
            }
        }
    }
    return NULL;
}

static void copy_round(char *source, char *destination, int threads) {
    pthread_t running[MAX_THREADS];
    share shares[MAX_THREADS];
    for (int i = 0; i < threads; i++) {
        shares[i].source = source + block * (uint64_t)i;
        shares[i].destination = destination + (fresh ? share_bytes : block) * (uint64_t)i;
        if (i != 0) pthread_create(&running[i], NULL, copy_share, &shares[i]);
    }
    copy_share(&shares[0]);
    for (int i = 1; i < threads; i++) pthread_join(running[i], NULL);
}

static int hold(size_t bytes) {
    char *memory = map_region(bytes).start;
    fill(memory, bytes);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);         /* Yama lets only ancestors read else */
    printf("%d %llu\n", getpid(), (unsigned long long)(uintptr_t)memory);
    fflush(stdout);
    char ignored;
    while (read(0, &ignored, 1) > 0) {}
    return 0;
}

/* words: BLOCK BYTES THREADS warm|fresh ROUNDS */
static int measure(const char *kind, char *source, char **words) {
    int threads = atoi(words[2]), rounds = atoi(words[4]);
    if (threads < 1 || threads > MAX_THREADS) return 2;
    share_bytes = strtoull(words[1], NULL, 10) / (uint64_t)threads;
    block = strtoull(words[0], NULL, 10);
    if (block > share_bytes) block = share_bytes;
    if (block == 0) return 2;
    size_t source_bytes = block * (uint64_t)threads;
    if (holder == 0 && strcmp(kind, "memfd") == 0) {
        source = map_memfd(source_bytes);
    } else if (holder == 0) {
        source = map_region(source_bytes).start;
        fill(source, source_bytes);
    }
    region warm = {0};
    int into_fresh = strcmp(words[3], "fresh") == 0;
    if (!into_fresh) {
        warm = map_region(source_bytes);
        copy_round(source, warm.start, threads);
    }
    fresh = into_fresh;
    for (int round = 0; round < rounds; round++) {
        double start = now();
        region r = fresh ? map_region(share_bytes * (uint64_t)threads) : warm;
        copy_round(source, r.start, threads);
        printf("%.6f\n", now() - start);
        if (fresh) munmap(r.mapping, r.mapped_bytes);
    }
    return 0;
}

int main(int count, char **words) {
    int status = 2;
    if (count == 3 && strcmp(words[1], "hold") == 0) {
        status = hold(strtoull(words[2], NULL, 10));
    } else if (count == 8 && strcmp(words[1], "memcpy") == 0) {
        status = measure(words[2], NULL, words + 3);
    } else if (count == 9 && strcmp(words[1], "read") == 0) {
        holder = atoi(words[2]);
        if (holder > 0) status = measure("", (char *)(uintptr_t)strtoull(words[3], NULL, 10), words + 4);
    }
    if (status == 2) fprintf(stderr, "usage: copy memcpy anon|memfd BLOCK BYTES THREADS warm|fresh ROUNDS | copy hold BYTES | copy read PID ADDRESS BLOCK BYTES THREADS warm|fresh ROUNDS\n");
    return status;
}
