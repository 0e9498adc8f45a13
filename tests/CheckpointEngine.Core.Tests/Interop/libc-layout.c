/* Prints "struct field offset size" for the structs of CheckpointEngine.Core/Interop/Libc.cs, and the constants' values.
 * Remake: cc libc-layout.c -o /tmp/layout && /tmp/layout > libc-layout.txt */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <linux/mempolicy.h>

#define FIELD(type, name, field) printf(name " " #field " %zu %zu\n", offsetof(type, field), sizeof(((type *)0)->field))
#define VALUE(name) printf("const " #name " %lld\n", (long long)(name))

int main(void)
{
    printf("Statx - 0 %zu\n", sizeof(struct statx));
    FIELD(struct statx, "Statx", stx_mask);
    FIELD(struct statx, "Statx", stx_mode);
    FIELD(struct statx, "Statx", stx_ino);
    FIELD(struct statx, "Statx", stx_size);
    FIELD(struct statx, "Statx", stx_dio_mem_align);
    FIELD(struct statx, "Statx", stx_dio_offset_align);
    printf("IoVector - 0 %zu\n", sizeof(struct iovec));
    FIELD(struct iovec, "IoVector", iov_base);
    FIELD(struct iovec, "IoVector", iov_len);
    printf("RLimit - 0 %zu\n", sizeof(struct rlimit));
    FIELD(struct rlimit, "RLimit", rlim_cur);
    FIELD(struct rlimit, "RLimit", rlim_max);
    VALUE(MAP_SHARED); VALUE(MAP_PRIVATE); VALUE(MAP_FIXED); VALUE(MAP_ANONYMOUS); VALUE(MAP_NORESERVE);
    VALUE(MADV_WILLNEED); VALUE(MADV_HUGEPAGE); VALUE(MLOCK_ONFAULT); VALUE(MFD_CLOEXEC); VALUE(MFD_ALLOW_SEALING);
    VALUE(F_ADD_SEALS); VALUE(F_SEAL_SEAL); VALUE(F_SEAL_SHRINK); VALUE(F_SEAL_GROW); VALUE(F_SEAL_FUTURE_WRITE);
    VALUE(O_NONBLOCK); VALUE(O_CLOEXEC); VALUE(AT_FDCWD); VALUE(AT_EMPTY_PATH); VALUE(STATX_TYPE); VALUE(STATX_SIZE);
    VALUE(S_IFMT); VALUE(S_IFREG); VALUE(S_IFDIR); VALUE(RLIMIT_MEMLOCK);
    VALUE(RWF_NOWAIT); VALUE(STATX_DIOALIGN); VALUE(PRIO_PROCESS); VALUE(MPOL_DEFAULT); VALUE(MPOL_INTERLEAVE);
    return 0;
}
