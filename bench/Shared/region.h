/* What the programs of the benchmarks have in common. Include it first: it asks for GNU's names. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { HUGE_PAGE = 2 << 20 };

static void fail(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct {
    char *mapping, *start;
    size_t mapped_bytes;
} region;

/* Anonymous memory that begins at a huge page, so that all of it can be such. */
static region map_region(size_t bytes) {
    region r = {.mapped_bytes = bytes + HUGE_PAGE};
    r.mapping = mmap(NULL, r.mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r.mapping == MAP_FAILED) fail("mmap");
    r.start = (char *)(((uintptr_t)r.mapping + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    madvise(r.start, bytes, MADV_HUGEPAGE);
    return r;
}
