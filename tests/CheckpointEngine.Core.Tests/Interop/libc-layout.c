/* Prints "struct field offset size" for the structs of CheckpointEngine.Core/Interop/Libc.cs, and the constants' values.
 * Remake: cc libc-layout.c -o /tmp/layout && /tmp/layout > libc-layout.txt */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/errqueue.h>
#include <stddef.h>
#include <stdio.h>
#include <errno.h>
#include <time.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <linux/mempolicy.h>

#define FIELD(type, name, field) printf(name " " #field " %zu %zu\n", offsetof(type, field), sizeof(((type *)0)->field))
#define VALUE(name) printf("const " #name " %lld\n", (long long)(name))

int main(void)
{
    printf("Statx - 0 %zu\n", sizeof(struct statx));
    FIELD(struct statx, "Statx", stx_mask);
    FIELD(struct statx, "Statx", stx_uid);
    FIELD(struct statx, "Statx", stx_mode);
    FIELD(struct statx, "Statx", stx_ino);
    FIELD(struct statx, "Statx", stx_size);
    FIELD(struct statx, "Statx", stx_dio_mem_align);
    FIELD(struct statx, "Statx", stx_dio_offset_align);
    printf("RLimit - 0 %zu\n", sizeof(struct rlimit));
    FIELD(struct rlimit, "RLimit", rlim_cur);
    FIELD(struct rlimit, "RLimit", rlim_max);
    printf("TimeSpec - 0 %zu\n", sizeof(struct timespec));
    FIELD(struct timespec, "TimeSpec", tv_sec);
    FIELD(struct timespec, "TimeSpec", tv_nsec);
    printf("IoVec - 0 %zu\n", sizeof(struct iovec));
    FIELD(struct iovec, "IoVec", iov_base);
    FIELD(struct iovec, "IoVec", iov_len);
    printf("MsgHdr - 0 %zu\n", sizeof(struct msghdr));
    FIELD(struct msghdr, "MsgHdr", msg_name);
    FIELD(struct msghdr, "MsgHdr", msg_namelen);
    FIELD(struct msghdr, "MsgHdr", msg_iov);
    FIELD(struct msghdr, "MsgHdr", msg_iovlen);
    FIELD(struct msghdr, "MsgHdr", msg_control);
    FIELD(struct msghdr, "MsgHdr", msg_controllen);
    FIELD(struct msghdr, "MsgHdr", msg_flags);
    printf("CMsgHdr - 0 %zu\n", sizeof(struct cmsghdr));
    FIELD(struct cmsghdr, "CMsgHdr", cmsg_len);
    FIELD(struct cmsghdr, "CMsgHdr", cmsg_level);
    FIELD(struct cmsghdr, "CMsgHdr", cmsg_type);
    printf("UCred - 0 %zu\n", sizeof(struct ucred));
    FIELD(struct ucred, "UCred", pid);
    FIELD(struct ucred, "UCred", uid);
    FIELD(struct ucred, "UCred", gid);
    printf("SockExtendedErr - 0 %zu\n", sizeof(struct sock_extended_err));
    FIELD(struct sock_extended_err, "SockExtendedErr", ee_errno);
    FIELD(struct sock_extended_err, "SockExtendedErr", ee_origin);
    FIELD(struct sock_extended_err, "SockExtendedErr", ee_code);
    FIELD(struct sock_extended_err, "SockExtendedErr", ee_info);
    FIELD(struct sock_extended_err, "SockExtendedErr", ee_data);
    VALUE(MAP_SHARED); VALUE(MAP_PRIVATE); VALUE(MAP_FIXED); VALUE(MAP_ANONYMOUS); VALUE(MAP_NORESERVE);
    VALUE(MADV_WILLNEED); VALUE(MADV_HUGEPAGE); VALUE(MLOCK_ONFAULT); VALUE(MFD_CLOEXEC); VALUE(MFD_ALLOW_SEALING);
    VALUE(F_ADD_SEALS); VALUE(F_SEAL_SEAL); VALUE(F_SEAL_SHRINK); VALUE(F_SEAL_GROW); VALUE(F_SEAL_FUTURE_WRITE);
    VALUE(O_NONBLOCK); VALUE(O_CLOEXEC); VALUE(AT_FDCWD); VALUE(AT_EMPTY_PATH); VALUE(STATX_TYPE); VALUE(STATX_SIZE);
    VALUE(SOL_SOCKET); VALUE(SO_PEERCRED); VALUE(SCM_RIGHTS); VALUE(MSG_CTRUNC); VALUE(MSG_CMSG_CLOEXEC); VALUE(PR_SET_PTRACER);
    VALUE(F_SEAL_WRITE); VALUE(MADV_POPULATE_READ); VALUE(STATX_MODE); VALUE(STATX_UID);
    VALUE(S_IFMT); VALUE(S_IFREG); VALUE(S_IFDIR); VALUE(RLIMIT_MEMLOCK);
    VALUE(ENOBUFS); VALUE(SOL_SOCKET); VALUE(SO_ZEROCOPY); VALUE(AF_UNSPEC);
    VALUE(MSG_DONTWAIT); VALUE(MSG_ERRQUEUE); VALUE(MSG_NOSIGNAL); VALUE(MSG_MORE); VALUE(MSG_ZEROCOPY);
    VALUE(SO_EE_ORIGIN_ZEROCOPY); VALUE(SO_EE_CODE_ZEROCOPY_COPIED);
    VALUE(EPOLLIN); VALUE(EPOLLOUT); VALUE(EPOLLERR); VALUE(EPOLLHUP); VALUE(EPOLLONESHOT); VALUE(EPOLL_CLOEXEC);
    VALUE(EPOLL_CTL_ADD); VALUE(EPOLL_CTL_DEL); VALUE(EPOLL_CTL_MOD); VALUE(EFD_CLOEXEC);
    VALUE(RWF_NOWAIT); VALUE(STATX_DIOALIGN); VALUE(PRIO_PROCESS); VALUE(MPOL_DEFAULT); VALUE(MPOL_INTERLEAVE);
    return 0;
}
