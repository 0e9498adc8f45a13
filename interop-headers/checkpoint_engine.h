/* CheckpointEngine: holds model weights in registered memory and lets other processes read them one-sidedly. The C interface.
 *
 * Hold a checkpoint, and tell where it is:
 *
 *     ce_server_options options = { .struct_size = sizeof options };
 *     options.address = "10.0.0.5";
 *     ce_server *server;
 *     if (ce_server_create(&options, &server) != CE_OK) { ...ce_last_error... }
 *     const char *paths[] = { "/models/qwen" };
 *     ce_server_register_files(server, "qwen", paths, 1, NULL);
 *     char url[256]; size_t size = sizeof url;
 *     ce_server_peer_url(server, url, &size);           -> ce://10.0.0.5:40123; metas are at ce://10.0.0.5:40123/qwen
 *
 * Read it in another process, into memory of the library:
 *
 *     ce_join_options join_options = { .struct_size = sizeof join_options };
 *     join_options.metas_url = "ce://10.0.0.5:40123/qwen";
 *     ce_join *join; ce_checkpoint *checkpoint; ce_tensor tensor;
 *     ce_join_start(server, &join_options, &join);
 *     ce_join_wait(join, CE_FOREVER);
 *     ce_join_checkpoint(join, &checkpoint);
 *     ce_checkpoint_find(checkpoint, "model.norm.weight", &tensor);
 *
 * Link with -lcheckpoint_engine (pkg-config checkpoint-engine), or open libcheckpoint_engine.so.0 with dlopen(3).
 *
 * RULES THAT HOLD FOR EVERY FUNCTION
 *
 * Status     0 (CE_OK) or a negative ce_status. The text behind it: ce_last_error, in the same thread. After a status other than CE_OK the
 *            out parameters are as they were, a handle among them NULL.
 * Handles    are numbers in the shape of pointers: never dereference them. NULL, a handle of another kind, one that was destroyed and one that
 *            never was are CE_E_HANDLE, whatever their bits are; so a double destroy is an error and harms nothing. Destroying NULL is CE_OK.
 * Threads    every function may be called from any thread, several at once, on the same handle too. Destroying a handle while another thread
 *            uses it is defined: that call ends as if it had come before, with CE_E_HANDLE or, where it waits, with CE_E_CANCELLED once what
 *            was cancelled has come to its end (a callback that runs returns first). What it has handed out (pointers into a checkpoint) goes with the handle.
 * Structs    that the caller fills begin with struct_size: set it to sizeof and zero the rest, in C by
 *            `ce_join_options o = { .struct_size = sizeof o };`, in C++ by `ce_join_options o{}; o.struct_size = sizeof o;`;
 *            zero means the default everywhere. A smaller size than this header's is an older caller and is taken (at least the members of
 *            0.2 must be there); a larger one is a newer caller and is taken if all that this library does not know is zero, else it is
 *            CE_E_ARGUMENT. In structs that the library fills, members that fit into struct_size are written and the rest left alone.
 *            ce_tensor and ce_bucket have no size: they never change within a major version.
 * Strings    are UTF-8 and end with NUL; anything else is CE_E_ARGUMENT. What is passed in is copied before the function returns. What comes
 *            out goes to a buffer of the caller: *size is its capacity in bytes, and afterwards the bytes needed with NUL, also when it was too
 *            small (CE_E_BUFFER_TOO_SMALL); buffer may be NULL when *size is 0.
 * Blocking   functions say so and take a ce_cancel, which may be NULL.
 * Callbacks  run on a thread of the library, one at a time for a join, and never after the join ended or ce_join_destroy returned. They
 *            return 0, or another number to end the join with CE_E_CALLBACK. They must not throw: a C++ exception that leaves a callback ends
 *            the process (std::terminate); checkpoint_engine.hpp catches and carries it. longjmp out of a callback is undefined.
 *
 * WHAT THE .NET RUNTIME INSIDE DOES TO THE PROCESS
 *
 * Signals    It installs handlers for SIGSEGV and SIGFPE (a fault outside its code goes on to the handler that was there before), for SIGRTMIN
 *            (glibc uses 33 for itself), and sets SIGPIPE to ignored.
 * Threads    One is started when the library is loaded; those of its pool and sockets from first use on. Threads of the caller may call freely.
 * Unloading  dlclose(3) leaves it loaded. Two copies (two files) in one process work beside each other, and beside another .NET runtime; a handle
 *            of one is unknown to the other.
 * fork(2)    The child must call exec before anything of this library: its threads are not there. Functions called in a forked child return
 *            CE_E_FORKED, as far as a process that has lost its threads can. Python: use the start method "spawn".
 * CPU        x86-64-v3 (AVX2, BMI2, FMA).
 *
 * C99 and C++17. */
#ifndef CHECKPOINT_ENGINE_H
#define CHECKPOINT_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#define CE_ABI_MAJOR 0
#define CE_ABI_MINOR 3

#if defined(_WIN32)
#define CE_API __declspec(dllimport)
#else
#define CE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version and errors -------------------------------------------------------------------------------------------------------------- */

/* How a call ended. -1 to -99 are about the call, -100 and below about the work: what a peer, a file or the host did. */
typedef int32_t ce_status;

enum {
    CE_OK = 0,
    CE_E_ARGUMENT = -1,           /* NULL, not UTF-8, a wrong struct_size or number */
    CE_E_HANDLE = -2,             /* no such handle: never made, destroyed, or of another kind */
    CE_E_STATE = -3,              /* not now: the text says what has to come first */
    CE_E_BUFFER_TOO_SMALL = -4,   /* *size says what is needed */
    CE_E_PENDING = -5,            /* not done yet, and nothing is wrong */
    CE_E_CANCELLED = -6,          /* ended by ce_cancel_trigger, ce_join_cancel or a destroy */
    CE_E_CALLBACK = -7,           /* a callback returned something other than 0 */
    CE_E_FORKED = -8,             /* called in a child of fork(2) */
    CE_E_INTERNAL = -9,           /* a fault of the library; the text helps who mends it */

    CE_E_INVALID_DATA = -101,     /* a file, message or document from outside has not the form it must have */
    CE_E_NOT_FOUND = -102,        /* a checkpoint, tensor, file or owner that was named is not there */
    CE_E_ALREADY_EXISTS = -103,   /* a name or a memory range is taken already */
    CE_E_UNREACHABLE = -104,      /* a peer could not be reached, or the connection broke */
    CE_E_TIMEOUT = -105,          /* a peer or operation made no progress in its time */
    CE_E_REFUSED = -106,          /* a peer refused: token, or a range that it does not serve */
    CE_E_PROTOCOL = -107,         /* a peer broke the protocol */
    CE_E_DIGEST_MISMATCH = -108,  /* bytes differ from the digest that their owner vouches for */
    CE_E_OUT_OF_MEMORY = -109,
    CE_E_IO = -110,               /* a file could not be read or written */
    CE_E_NOT_SUPPORTED = -111,    /* this host or build lacks what was asked for */
    CE_E_NATIVE = -112,           /* a system call failed */
    CE_E_WRONG_SHAPE = -113,      /* well-formed, but not what it must be: a tensor of another dtype or shape, a missing member */
    CE_E_BUSY = -114,             /* somebody is at it: a checkpoint between begin and commit of an update; try again */
    CE_E_SUPERSEDED = -115        /* the owner has changed or taken away what was being read; fetch the metas anew and try again */
};

/* The version of this interface: major in the high 24 bits, minor in the low 8. Another major is another interface; a higher minor has more.
 * Threads:   any, at any time.
 * Since:     0.1 */
CE_API uint32_t ce_abi_version(void);

/* The version of the library, for example "0.1.0".
 * Ownership: static text, valid as long as the process lives.
 * Threads:   any, at any time.
 * Since:     0.1 */
CE_API const char *ce_version(void);

/* The name of a status, for example "CE_E_TIMEOUT"; "CE_E_UNKNOWN" for a number that is none.
 * Ownership: static text.
 * Since:     0.2 */
CE_API const char *ce_status_name(ce_status status);

/* What went wrong in the calling thread's last call that did not return CE_OK: operation, subject, reason, and what to try. Calls that
 * succeed, and this one, leave it alone. Empty when nothing has failed yet.
 * Errors:    CE_E_ARGUMENT, CE_E_BUFFER_TOO_SMALL.
 * Since:     0.2 */
CE_API ce_status ce_last_error(char *buffer, size_t *size);

/* ---- Cancelling ---------------------------------------------------------------------------------------------------------------------- */

/* Ends blocking calls from another thread (or from a signal handler's thread, not from the handler). One may serve any number of calls. */
typedef struct ce_cancel ce_cancel;

/* Ownership: destroy it with ce_cancel_destroy, when no call uses it any more or even before.
 * Errors:    CE_E_ARGUMENT.
 * Since:     0.2 */
CE_API ce_status ce_cancel_create(ce_cancel **cancel);

/* Calls that wait with it, and calls to come, end with CE_E_CANCELLED. Triggering again does nothing.
 * Errors:    CE_E_HANDLE.
 * Since:     0.2 */
CE_API ce_status ce_cancel_trigger(ce_cancel *cancel);

/* Errors:    CE_E_HANDLE.
 * Since:     0.2 */
CE_API ce_status ce_cancel_destroy(ce_cancel *cancel);

/* ---- Tensors ------------------------------------------------------------------------------------------------------------------------- */

/* Element types, with safetensors' names. Sub-byte types are packed; their tensors have whole bytes. */
typedef enum ce_dtype {
    CE_DTYPE_UNKNOWN = 0,   /* named in metas by a word this library does not know; its bytes are all there */
    CE_DTYPE_BOOL = 1,
    CE_DTYPE_U8 = 2,
    CE_DTYPE_I8 = 3,
    CE_DTYPE_U16 = 4,
    CE_DTYPE_I16 = 5,
    CE_DTYPE_U32 = 6,
    CE_DTYPE_I32 = 7,
    CE_DTYPE_U64 = 8,
    CE_DTYPE_I64 = 9,
    CE_DTYPE_F16 = 10,
    CE_DTYPE_BF16 = 11,
    CE_DTYPE_F32 = 12,
    CE_DTYPE_F64 = 13,
    CE_DTYPE_C64 = 14,
    CE_DTYPE_C128 = 15,
    CE_DTYPE_F8_E4M3 = 16,
    CE_DTYPE_F8_E5M2 = 17,
    CE_DTYPE_F8_E4M3_FNUZ = 18,
    CE_DTYPE_F8_E5M2_FNUZ = 19,
    CE_DTYPE_F8_E8M0 = 20,
    CE_DTYPE_F4 = 21,
    CE_DTYPE_F6_E2M3 = 22,
    CE_DTYPE_F6_E3M2 = 23
} ce_dtype;

/* One tensor, dense in row-major order. */
typedef struct ce_tensor {
    const char *name;        /* UTF-8 with NUL */
    const int64_t *shape;    /* rank dimensions, each 0 or more; may be NULL when rank is 0 */
    void *data;              /* its first byte; NULL where only a description is given (metas) or size_bytes is 0. Read-only unless said otherwise */
    uint64_t size_bytes;     /* out: its bytes. In: the same, or 0 to have them computed from dtype and shape */
    uint32_t rank;           /* number of dimensions; 0 is a scalar: one element */
    uint32_t dtype;          /* a ce_dtype */
} ce_tensor;

/* The safetensors name of an element type ("BF16"), or "" for one that is none.
 * Ownership: static text.
 * Since:     0.2 */
CE_API const char *ce_dtype_name(uint32_t dtype);

/* Bits of one element; 0 for an element type that is none.
 * Since:     0.2 */
CE_API uint32_t ce_dtype_bits(uint32_t dtype);

/* ---- Metas: who holds which tensor where --------------------------------------------------------------------------------------------- */

/* Immutable. Destroy it with ce_metas_destroy. */
typedef struct ce_metas ce_metas;

enum {
    CE_METAS_JSON = 0,
    CE_METAS_PICKLE = 1      /* the form that the Python checkpoint-engine loads, with its class names */
};

/* Reads metas from a document, JSON or pickle, which is found out. Pickle is parsed, never executed.
 * Ownership: data is not kept.
 * Errors:    CE_E_ARGUMENT, CE_E_INVALID_DATA, CE_E_WRONG_SHAPE.
 * Since:     0.2 */
CE_API ce_status ce_metas_parse(const void *data, size_t size, ce_metas **metas);

typedef struct ce_fetch_options {
    size_t struct_size;
    const char *token;         /* for ce:// and http(s) with a token; NULL: none */
    const char *ca_file;       /* PEM authorities for https instead of the system's; NULL: the system's */
    const char *cert_file;     /* PEM client certificate, with key_file; NULL: none */
    const char *key_file;
    uint64_t timeout_ms;       /* the longest the fetch may take; 0: 60 s */
} ce_fetch_options;

/* Fetches metas: http://, https://, unix:/run/ce.sock:/v1/metas, ce://host:port/NAME, or file:///path. Blocks.
 * options:   may be NULL.
 * Errors:    CE_E_ARGUMENT, CE_E_UNREACHABLE, CE_E_TIMEOUT, CE_E_REFUSED, CE_E_NOT_FOUND, CE_E_BUSY, CE_E_INVALID_DATA, CE_E_CANCELLED, ...
 * Since:     0.2 */
CE_API ce_status ce_metas_fetch(const char *url, const ce_fetch_options *options, ce_cancel *cancel, ce_metas **metas);

/* Fetches metas as ce_metas_fetch does; with those that are known, waits until the URL tells others: a new generation, another owner. Blocks.
 * options:   may be NULL; timeout_ms is for the answer, beside wait_ms.
 * known:     what an earlier ce_metas_follow of this URL gave; NULL: none, what there is comes at once.
 * wait_ms:   the longest wait, in whole seconds, rounded up; 0 asks and does not wait; CE_FOREVER.
 * Returns:   CE_OK: these are others. CE_E_PENDING: the same still.
 * Errors:    as ce_metas_fetch; CE_E_ARGUMENT: a file, or known came from elsewhere; CE_E_NOT_SUPPORTED: what answers does not tell of changes.
 * Since:     0.3 */
CE_API ce_status ce_metas_follow(const char *url, const ce_fetch_options *options, ce_metas *known, uint64_t wait_ms, ce_cancel *cancel, ce_metas **metas);

/* The metas as a document.
 * format:    CE_METAS_JSON or CE_METAS_PICKLE.
 * Ownership: *data belongs to the metas and lives until ce_metas_destroy; it is made once for each format.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT.
 * Since:     0.2 */
CE_API ce_status ce_metas_write(ce_metas *metas, uint32_t format, const void **data, size_t *size);

/* Number of tensors over all owners, or 0 for no handle.
 * Since:     0.2 */
CE_API uint64_t ce_metas_tensor_count(ce_metas *metas);

/* Tensor number index; data is NULL.
 * owner_rank: receives the rank of who holds it; may be NULL.
 * Ownership: the pointers in *tensor live until ce_metas_destroy.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT (beyond the count).
 * Since:     0.2 */
CE_API ce_status ce_metas_tensor(ce_metas *metas, uint64_t index, ce_tensor *tensor, int32_t *owner_rank);

/* Number of owners, or 0 for no handle.
 * Since:     0.2 */
CE_API uint64_t ce_metas_owner_count(ce_metas *metas);

/* Owner number index: its rank and, as "host:port", where its handshake service is.
 * rank:      may be NULL. address, size: a string, as in the rules; both may be NULL.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_BUFFER_TOO_SMALL.
 * Since:     0.2 */
CE_API ce_status ce_metas_owner(ce_metas *metas, uint64_t index, int32_t *rank, char *address, size_t *size);

/* Errors:    CE_E_HANDLE.
 * Since:     0.2 */
CE_API ce_status ce_metas_destroy(ce_metas *metas);

/* ---- Checkpoints: tensors in this process's memory ----------------------------------------------------------------------------------- */

/* A checkpoint that a server holds. The handle keeps its memory: unregister and destroying the server take the name away, and the pages stay until
 * the last handle is destroyed. (Tensors of the caller, registered in place, stay the caller's: their memory is not kept.) */
typedef struct ce_checkpoint ce_checkpoint;

/* Number of tensors, or 0 for no handle.
 * Since:     0.2 */
CE_API uint64_t ce_checkpoint_tensor_count(ce_checkpoint *checkpoint);

/* Bytes of tensor data, or 0 for no handle.
 * Since:     0.2 */
CE_API uint64_t ce_checkpoint_size(ce_checkpoint *checkpoint);

/* Tensor number index, in the order in which they lie in memory. Under 100 ns.
 * Ownership: the pointers in *tensor live until ce_checkpoint_destroy. data is to be read only: peers may be reading it, and a mapped file faults.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT (beyond the count).
 * Since:     0.2 */
CE_API ce_status ce_checkpoint_tensor(ce_checkpoint *checkpoint, uint64_t index, ce_tensor *tensor);

/* The tensor of that name. Under 100 ns after the first call, which makes the index.
 * Ownership: as ce_checkpoint_tensor.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_NOT_FOUND.
 * Since:     0.2 */
CE_API ce_status ce_checkpoint_find(ce_checkpoint *checkpoint, const char *name, ce_tensor *tensor);

/* Number of side files (config, tokenizer) that came along, or 0 for no handle.
 * Since:     0.2 */
CE_API uint64_t ce_checkpoint_side_file_count(ce_checkpoint *checkpoint);

/* Side file number index. name, size: a string, as in the rules; both may be NULL.
 * Ownership: *data (may be NULL) lives until ce_checkpoint_destroy.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_BUFFER_TOO_SMALL.
 * Since:     0.2 */
CE_API ce_status ce_checkpoint_side_file(ce_checkpoint *checkpoint, uint64_t index, char *name, size_t *size, const void **data, size_t *data_size);

/* Errors:    CE_E_HANDLE.
 * Since:     0.2 */
CE_API ce_status ce_checkpoint_destroy(ce_checkpoint *checkpoint);

/* ---- Server: holds checkpoints and joins others' --------------------------------------------------------------------------------------- */

typedef struct ce_server ce_server;

enum {
    CE_SERVER_JOIN_ONLY = 1,  /* flags: do not listen; such a server only joins, and what it holds nobody can read */
    CE_SERVER_CONSUME = 2,    /* remove the weight files of a checkpoint, which lie in /dev/shm, once it is held; since 0.3 */
    CE_SERVER_SHARED_POOL = 4, /* keep the memory of what was unregistered last for the next checkpoint of its layout, anonymous whatever hold says; since 0.3 */
    CE_SERVER_REQUIRE_LEASE = 8 /* nobody reads over the network without a lease, which keeps what it is for from being freed or changed: no plain Mooncake
                                 * peer; since 0.3 */
};

enum { CE_HOLD_MAP = 0, CE_HOLD_MEMFD = 1, CE_HOLD_ANON = 2 };      /* files: mapped in place, copied to a memfd, copied to anonymous memory */
enum { CE_PIN_AUTO = 0, CE_PIN_MLOCK = 1, CE_PIN_NONE = 2 };        /* lock memory: when the limit allows, or fail; never */
enum { CE_DIGEST_XXH3 = 0, CE_DIGEST_SHA256 = 1, CE_DIGEST_NONE = 2 };
enum { CE_TRANSPORT_AUTO = 0, CE_TRANSPORT_TCP = 1, CE_TRANSPORT_LOCAL = 2, CE_TRANSPORT_RDMA = 3, /* the best both ends have; one alone. LOCAL, RDMA since 0.3 */
       CE_TRANSPORT_MOONCAKE = 4 };   /* Mooncake's library, which CHECKPOINT_ENGINE_MOONCAKE_LIBRARY names; since 0.3 */

typedef struct ce_server_options {
    size_t struct_size;
    const char *address;          /* IP address of this host to bind and announce, no wildcard; NULL: 127.0.0.1 */
    const char *token;            /* what peers must prove to know, and its joins show; of several lines the first is shown, each accepted: see
                                   * ce_server_set_token; NULL: nothing is demanded */
    const char *plain_peers;      /* who may read without our handshake: "all", "none", or networks "10.0.0.0/8,fd00::/8"; NULL: all without a
                                   * token, none with one */
    uint64_t drain_timeout_ms;    /* how long unregister, begin_update and destroy wait for reads under way before they cut them; 0: 30 s */
    uint32_t flags;               /* CE_SERVER_... */
    int32_t rank;                 /* this owner's rank in the world */
    uint32_t port;                /* of the handshake service; 0: any */
    uint32_t hold;                /* CE_HOLD_... */
    uint32_t pin;                 /* CE_PIN_... */
    uint32_t digest;              /* CE_DIGEST_... */
    /* since 0.3 */
    const char *local_socket;     /* where processes of this host ask for the memory itself: a path, which pods can share, or "@name"; NULL: a name of
                                   * its own without a file */
    const char *local_peers;      /* which users of this host may have it when no token is set: "own" (and root), "all", or numbers "1000,1001" beside
                                   * the own one; NULL: "own" */
    uint32_t transport;           /* CE_TRANSPORT_...: TCP offers no memory to this host */
    uint32_t attach_files;        /* not 0: offer mapped files for attaching even if others than this user may write them */
    const char *rdma_devices;     /* which RDMA devices it and its joins use, "mlx5_0,mlx5_3"; NULL: PS_P2P_STORE_RDMA_DEVICES, else NCCL_IB_HCA, else
                                   * all that are up */
    uint64_t grace_time_ms;       /* how long what is taken away or changed stays readable where it is, for readers without a lease; 0: not at all */
    const char *tls_cert_file;    /* PEM certificate with which the peer service speaks TLS 1.3, looked after while the server runs; NULL: it speaks none */
    const char *tls_key_file;     /* its key; NULL: tls_cert_file holds it */
    const char *tls_client_ca_file; /* PEM authorities of the certificates that clients must show; NULL: they need none */
    const char *ca_file;          /* of its joins: PEM authorities of owners whose peer services speak TLS, and of https; NULL: the system's */
    const char *cert_file;        /* of its joins: PEM client certificate, with key_file; NULL: none */
    const char *key_file;
    const char *audit_log;        /* a line here for who registered, read and was refused; opened for each line; "-": stderr; NULL: nowhere */
    uint32_t require_tls;         /* not 0: its joins read from no owner whose peer service speaks no TLS */
    uint32_t max_peers;           /* conversations of the peer service at a time; 0: 2,048 */
    uint32_t max_peers_of_address; /* of one address (IPv6: /64); 0: 512 */
    uint32_t max_data;            /* data connections; 0: 4,096 */
    uint32_t max_data_of_address; /* 0: 1,024 */
    uint32_t max_handshakes;      /* handshakes; 0: 512 */
    uint32_t max_handshakes_of_address; /* 0: 256 */
    uint32_t max_requests;        /* of one address to the peer service in a second; 0: 10,000 */
    uint32_t max_leases;          /* leases at a time; 0: 16,384 */
    uint32_t max_in_flight_kib;   /* KiB that the kernel holds of one data connection for a peer that does not take them; 0: the system's own measure */
    uint32_t encrypt_data;        /* not 0: weights leave this host within TLS 1.3 alone, with tls_cert_file, which it needs: no plain Mooncake peer, and
                                   * nothing over RDMA */
    uint32_t require_encryption;  /* not 0: its joins read over a network from no owner that does not encrypt what it sends; implies require_tls */
} ce_server_options;

/* Makes a server and, unless CE_SERVER_JOIN_ONLY, lets it listen.
 * options:   may be NULL.
 * Ownership: destroy it with ce_server_destroy.
 * Errors:    CE_E_ARGUMENT; CE_E_UNREACHABLE, CE_E_NATIVE, CE_E_ALREADY_EXISTS: the address or port cannot be had; CE_E_IO, CE_E_INVALID_DATA:
 *            a certificate, key or audit log.
 * Since:     0.2 */
CE_API ce_status ce_server_create(const ce_server_options *options, ce_server **server);

/* Ends its joins, stops listening, waits for reads under way (drain_timeout_ms), frees what it holds and no ce_checkpoint keeps. Blocks.
 * Errors:    CE_E_HANDLE; CE_E_STATE: called from one of its joins' callbacks.
 * Since:     0.2 */
CE_API ce_status ce_server_destroy(ce_server *server);

/* "ce://host:port" of the peer service; with "/NAME" behind it, the URL of a checkpoint's metas for every front door (command, Python, C, C#).
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_BUFFER_TOO_SMALL; CE_E_STATE: it does not listen.
 * Since:     0.2 */
CE_API ce_status ce_server_peer_url(ce_server *server, char *buffer, size_t *size);

/* "host:port" of the handshake service, as metas tell it (p2p_store_addr).
 * Errors:    as ce_server_peer_url.
 * Since:     0.2 */
CE_API ce_status ce_server_p2p_address(ce_server *server, char *buffer, size_t *size);

/* Holds files under a name: one directory, index or .safetensors file (with its side files), or several .safetensors files. All or nothing. Blocks
 * for a copy (CE_HOLD_ANON, CE_HOLD_MEMFD); mapping takes no time.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_ALREADY_EXISTS, CE_E_NOT_FOUND, CE_E_INVALID_DATA, CE_E_IO, CE_E_OUT_OF_MEMORY, CE_E_CANCELLED.
 * Since:     0.2 */
CE_API ce_status ce_server_register_files(ce_server *server, const char *name, const char *const *paths, size_t count, ce_cancel *cancel);

/* As ce_server_register_files, as the next generation of a name that may be held already, by whatever means. Who asks for the metas is told of the
 * old one until all of the new one is there; joins of the old one go on, and its memory is freed when they are done or drain_timeout_ms is over, so
 * there must be memory for both. When it fails, the old one stays. Blocks for a copy, and not for those joins.
 * Ownership: tensors of the caller that are replaced must stay until ce_server_destroy has returned.
 * Errors:    as ce_server_register_files; CE_E_ALREADY_EXISTS: another call is about to hold that name.
 * Since:     0.3 */
CE_API ce_status ce_server_replace_files(ce_server *server, const char *name, const char *const *paths, size_t count, ce_cancel *cancel);

enum { CE_POOL_AS_SERVER = 0, CE_POOL_ON = 1, CE_POOL_OFF = 2 };     /* as CE_SERVER_SHARED_POOL says; for this checkpoint, whatever that says */

typedef struct ce_register_options {
    size_t struct_size;
    uint32_t replace;        /* not 0: as ce_server_replace_files. 0: the name must be free */
    uint32_t shared_pool;    /* CE_POOL_...: whether it takes the memory that is kept, and leaves its own there: see CE_SERVER_SHARED_POOL */
} ce_register_options;

/* As ce_server_register_files, with choices for this checkpoint alone.
 * options:   may be NULL: as ce_server_register_files.
 * Errors:    as ce_server_register_files; with replace, as ce_server_replace_files.
 * Since:     0.3 */
CE_API ce_status ce_server_register_files_with(ce_server *server, const char *name, const char *const *paths, size_t count,
                                               const ce_register_options *options, ce_cancel *cancel);

/* Holds the caller's own tensors in place under a name: nothing is copied. They may overlap (tied weights).
 * Ownership: the memory stays the caller's; it must stay mapped, and unchanged outside ce_server_begin_update and commit, until
 *            ce_server_unregister or ce_server_destroy has returned. The array, names and shapes are copied.
 * Errors:    CE_E_HANDLE; CE_E_ARGUMENT: the text names the tensor; CE_E_ALREADY_EXISTS: the name, or memory that another checkpoint has.
 * Since:     0.2 */
CE_API ce_status ce_server_register_tensors(ce_server *server, const char *name, const ce_tensor *tensors, size_t count);

/* Takes a checkpoint of the caller's tensors out of reach so that they may be changed: nobody new reads them, reads under way are waited for
 * (drain_timeout_ms) and then cut. Who fetches its metas meanwhile gets CE_E_BUSY. Blocks.
 * Errors:    CE_E_HANDLE, CE_E_NOT_FOUND; CE_E_STATE: it is of files or of a join, or an update has begun already.
 * Since:     0.2 */
CE_API ce_status ce_server_begin_update(ce_server *server, const char *name);

/* Publishes the changed tensors as a new generation, with digests of their own. A join that began before fails with
 * CE_E_SUPERSEDED, CE_E_REFUSED or CE_E_DIGEST_MISMATCH; it never mixes generations. Who updates without a pause lets no join through.
 * Errors:    CE_E_HANDLE, CE_E_NOT_FOUND; CE_E_STATE: no update has begun.
 * Since:     0.2 */
CE_API ce_status ce_server_commit_update(ce_server *server, const char *name);

/* Takes a checkpoint away: nobody new reads it, reads under way are waited for (drain_timeout_ms) and then cut. After it the caller's
 * tensors may be freed. Blocks.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_NOT_FOUND.
 * Since:     0.2 */
CE_API ce_status ce_server_unregister(ce_server *server, const char *name);

/* As ce_server_unregister; a checkpoint of the shared pool leaves no memory there: its own is freed, and so is what is kept of others.
 * Errors:    as ce_server_unregister.
 * Since:     0.3 */
CE_API ce_status ce_server_unregister_force(ce_server *server, const char *name);

/* Takes another token in the place of the server's: what is shown and accepted from now on, by its joins too. Connections that are open go on: a
 * token is proved once a connection. To change it without a gap, give every host "OLD\nNEW", then "NEW\nOLD", then "NEW".
 * token:     as in ce_server_options.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT; CE_E_STATE: it was made without a token.
 * Since:     0.3 */
CE_API ce_status ce_server_set_token(ce_server *server, const char *token);

/* Reads tls_cert_file, tls_key_file and tls_client_ca_file now, which is otherwise done within two seconds of a change. Connections that are open go
 * on. After a failure those that were read before stay.
 * Errors:    CE_E_HANDLE; CE_E_STATE: it was made without tls_cert_file; CE_E_IO, CE_E_INVALID_DATA: the text names the file.
 * Since:     0.3 */
CE_API ce_status ce_server_reload_certificates(ce_server *server);

/* Waits while other joiners are in the middle of what joins of this server with relay have brought, so that they need not read it from its owner
 * again; then offers it no more, whatever the outcome. A program that ends after its joins calls it before ce_server_destroy, which waits for
 * nobody; one that goes on need not: what was brought is offered until it is unregistered. Joins that still run are not waited for. Blocks.
 * timeout_ms: the longest wait; 0 does not wait; CE_FOREVER.
 * everybody_done: receives 1 when nobody was left in the middle, else 0: they read the rest from the owner; may be NULL.
 * Threads:   any, several at once.
 * Errors:    CE_E_HANDLE: none, or destroyed meanwhile; CE_E_CANCELLED.
 * Since:     0.3 */
CE_API ce_status ce_server_finish_relays(ce_server *server, uint64_t timeout_ms, ce_cancel *cancel, uint32_t *everybody_done);

/* What this server knows of a checkpoint: what it holds, merged with what ce_server_load_metas told it.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_NOT_FOUND, CE_E_BUSY; CE_E_STATE: it does not listen, so nobody could read.
 * Since:     0.2 */
CE_API ce_status ce_server_metas(ce_server *server, const char *name, ce_metas **metas);

/* Replaces what is known of the other owners of a checkpoint.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_INVALID_DATA.
 * Since:     0.2 */
CE_API ce_status ce_server_load_metas(ce_server *server, const char *name, ce_metas *metas);

/* A handle of a checkpoint that the server holds: files, the caller's tensors, or what a join brought.
 * Ownership: destroy it with ce_checkpoint_destroy.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_NOT_FOUND.
 * Since:     0.2 */
CE_API ce_status ce_server_checkpoint(ce_server *server, const char *name, ce_checkpoint **checkpoint);

/* What inference server it is, and how it takes weights. */
enum {
    CE_ENGINE_VLLM = 0,          /* POST /collective_rpc, with checkpoint-engine's worker extension */
    CE_ENGINE_SGLANG = 1,        /* POST /update_weights_from_ipc */
    CE_ENGINE_LMDEPLOY = 2,      /* POST /update_weights_from_ipc */
    CE_ENGINE_VLLM_FILES = 3,    /* it reads safetensors, which are written for it and removed again: reload_weights */
    CE_ENGINE_SGLANG_FILES = 4   /* POST /update_weights_from_disk */
};

/* Which checkpoint-engine its workers have. */
enum { CE_WORKERS_0_4 = 0, CE_WORKERS_0_2 = 1, CE_WORKERS_0_1 = 2 };

/* Which memory its workers take weights from. */
enum { CE_UPDATE_HOST = 0, CE_UPDATE_CUDA = 1, CE_UPDATE_AUTO = 2 };

typedef struct ce_update_options {
    size_t struct_size;
    const char *endpoint;          /* the server's URL; NULL: "http://localhost:19730" */
    const char *unix_socket;       /* reach it through this socket; NULL: over TCP */
    const char *api_key;           /* what its admin endpoints ask for; NULL: nothing */
    const char *weight_version;    /* what SGLang calls the weights; NULL: it keeps its name */
    const char *files_directory;   /* where files are written, absent or empty; NULL: a new directory in /dev/shm */
    uint64_t bucket_bytes;         /* of which there are two; 0: 64 MiB in host memory, 256 MiB on GPUs */
    uint64_t health_timeout_ms;    /* the longest the server may take to be up; 0: 10 minutes */
    uint64_t step_timeout_ms;      /* the longest a worker may take for a bucket; 0: 2 minutes */
    uint64_t update_timeout_ms;    /* the longest the update may take once it is up; 0: 5 minutes */
    uint32_t engine;               /* CE_ENGINE_... */
    uint32_t parallel_size;        /* number of workers; 0: 1 */
    uint32_t worker_protocol;      /* CE_WORKERS_... */
    uint32_t devices;              /* CE_UPDATE_... */
    uint32_t keep_cache;           /* 1: SGLang keeps its cache of prefixes, which is of the old weights */
    uint32_t keep_files;           /* 1: files stay */
} ce_update_options;
#define CE_UPDATE_OPTIONS_INIT { sizeof(ce_update_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

typedef struct ce_update_report {
    size_t struct_size;
    uint64_t bytes;                /* tensor data, padding not counted */
    uint64_t tensors;
    uint64_t bucket_bytes;         /* 0 for files, as buckets */
    uint64_t buckets;
    double seconds;                /* without the wait for the server's health */
    double health_seconds;
    double write_seconds;          /* files */
    double copy_seconds;           /* into the buckets, beside the loading of the one before */
    double load_seconds;           /* the slowest worker's, summed over the buckets */
    double finish_seconds;
} ce_update_report;

/* Brings a checkpoint that the server holds into a running inference server: vLLM, SGLang or LMDeploy. Blocks. After a failure the inference
 * server may have parts of the new weights: update it again. Every way but files needs libzmq.so.5 (Debian: libzmq5).
 * options:   may be NULL. cancel: may be NULL; its workers are then told to stop.
 * report:    receives what was done; may be NULL.
 * Threads:   any; one update of an inference server at a time is the caller's to see to.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT, CE_E_NOT_FOUND, CE_E_BUSY, CE_E_REFUSED (the server's or a worker's words), CE_E_UNREACHABLE,
 *            CE_E_TIMEOUT, CE_E_NOT_SUPPORTED, CE_E_OUT_OF_MEMORY, CE_E_IO, CE_E_CANCELLED.
 * Since:     0.3 */
CE_API ce_status ce_server_update(ce_server *server, const char *name, const ce_update_options *options, ce_cancel *cancel, ce_update_report *report);

/* Remarks for the user of the calling thread's last ce_server_update (workers of another generation than was said), one per line; empty when there
 * are none, when it failed, and before the first.
 * Errors:    CE_E_ARGUMENT, CE_E_BUFFER_TOO_SMALL.
 * Since:     0.3 */
CE_API ce_status ce_update_warnings(char *buffer, size_t *size);

/* ---- Join: read what others hold ------------------------------------------------------------------------------------------------------- */

typedef struct ce_join ce_join;

/* A bucket: whole tensors that have arrived and were checked, in memory of the library. */
typedef struct ce_bucket {
    void *data;                  /* its first byte; tensors lie inside at multiples of their element's size where the owner keeps that */
    uint64_t size_bytes;         /* of the bucket, padding included */
    const ce_tensor *tensors;    /* the tensors in it */
    uint64_t tensor_count;
    uint64_t index;              /* counted from 0, in the order of the calls */
    uint64_t count;              /* buckets of this join */
} ce_bucket;

/* Consumes a bucket while the next one is on its way. bucket and all it points at live until the return; the data may be changed.
 * Returns:   0; anything else ends the join with CE_E_CALLBACK.
 * Threads:   a thread of the library, the same for all buckets of a join. Of this join, it may call ce_join_poll and ce_join_cancel only. */
typedef int (*ce_bucket_fn)(void *user, const ce_bucket *bucket);

enum {
    CE_TO_MEMORY = 0,      /* library memory; the server holds it under checkpoint_name from then on and, if it listens, serves it */
    CE_TO_TENSORS = 1,     /* into the caller's tensors, by name */
    CE_TO_BUCKETS = 2,     /* through on_bucket */
    CE_TO_DIRECTORY = 3,   /* safetensors shards with index and side files */
    CE_TO_NULL = 4         /* read, checked, dropped: to measure */
};

enum { CE_VERIFY_ON = 0, CE_VERIFY_REQUIRE = 1, CE_VERIFY_OFF = 2 };   /* check what can be checked; fail if not all could be; do not check */

typedef struct ce_join_options {
    size_t struct_size;
    const char *checkpoint_name;   /* its name here (CE_TO_MEMORY); NULL: "join-checkpoint" */
    const char *metas_url;         /* where the metas are, as in ce_metas_fetch; or NULL and metas */
    ce_metas *metas;               /* the metas; or NULL and metas_url. May be destroyed once ce_join_start has returned */
    const ce_fetch_options *fetch; /* for metas_url; what it leaves NULL is as of the server: token, authorities, certificate */
    const char *const *include;    /* name patterns (*, ?, [...]) of which a tensor must match one; none: all */
    const char *const *exclude;    /* name patterns of tensors to leave out */
    size_t include_count;
    size_t exclude_count;
    const ce_tensor *tensors;      /* CE_TO_TENSORS: where they go. Only these are read; each must be in the metas with the same dtype and shape */
    size_t tensor_count;
    const char *directory;         /* CE_TO_DIRECTORY */
    ce_bucket_fn on_bucket;        /* CE_TO_BUCKETS */
    void *user;                    /* handed to on_bucket */
    uint64_t bucket_bytes;         /* a bucket's size; it grows to the largest tensor, and there are two of them. 0: 256 MiB */
    uint64_t timeout_ms;           /* for the whole join; 0: none */
    uint64_t stall_timeout_ms;     /* the longest an owner may send nothing; 0: 30 s */
    uint32_t destination;          /* CE_TO_... */
    uint32_t verify;               /* CE_VERIFY_... */
    uint32_t transport;            /* CE_TRANSPORT_... */
    uint32_t lanes;                /* connections per owner; 0: found out on the way */
    uint32_t weights_only;         /* not 0: leave side files where they are */
    uint32_t reserved;             /* 0 */
    /* since 0.3 */
    uint32_t copy;                 /* CE_TO_MEMORY: not 0: copy what could be attached to. 0: memory that owners of this host offer is mapped where it
                                    * is and not copied; a write to such a tensor is SIGSEGV, and it is verified only with CE_VERIFY_REQUIRE */
    uint32_t attach_files;         /* not 0: attach to files that others than their owner may write, too */
    const char *const *replica_urls;   /* further URLs of the same checkpoint, beside metas_url: their owners are replicas, which share the work, and of which
                                        * some may die. Those whose metas cannot be had are left out: see ce_join_warnings */
    size_t replica_count;
    const char *earlier_checkpoint;    /* CE_TO_MEMORY, CE_TO_DIRECTORY: a version that this server holds under that name; what the owners' digests say is
                                        * the same is copied from it instead of read. NULL, or not held: none */
    uint64_t retry_timeout_ms;         /* with metas_url: how long it is asked again when an owner is lost or has gone on to its next generation, and the join
                                        * goes on with what it has (CE_TO_TENSORS: begins again). Not CE_TO_BUCKETS; with digests. 0: 10 s; CE_FOREVER; CE_NEVER */
    uint32_t replace;                  /* CE_TO_MEMORY: not 0: replace what is held under checkpoint_name, which is served until all of the new one is here and
                                        * checked, and freed as by ce_server_replace_files. 0: the name must be free */
    uint32_t relay;                    /* CE_TO_MEMORY, CE_TO_DIRECTORY: not 0: read together with other joins that set this. Each reads a part from the owner
                                        * and the rest from the others, and offers them, at a port of its own, what it has and has checked: while it reads,
                                        * and until ce_server_finish_relays, its unregistering or the server's end. Over a network, with digests; where that
                                        * cannot be, it reads alone, and ce_join_warnings says why. What others send is checked against the owner's digests,
                                        * and XXH3 is no defence against who means harm: have the owner serve with CE_DIGEST_SHA256 then */
} ce_join_options;

#define CE_NEVER (UINT64_MAX - 1)      /* retry_timeout_ms: a join whose owner is lost fails */

/* Starts a join and returns. It goes on by itself; a server that is destroyed ends its joins.
 * Ownership: destroy it with ce_join_destroy. With CE_TO_TENSORS their memory must stay until the join has ended or ce_join_destroy returned; the
 *            array, names and shapes are copied. After a failure the bytes of those tensors are undefined.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT. Everything else is the result of the join: ce_join_wait.
 * Since:     0.2 */
CE_API ce_status ce_join_start(ce_server *server, const ce_join_options *options, ce_join **join);

enum { CE_JOIN_RUNNING = 0, CE_JOIN_DONE = 1, CE_JOIN_FAILED = 2, CE_JOIN_CANCELLED = 3 };
enum { CE_PHASE_METAS = 0, CE_PHASE_PLAN = 1, CE_PHASE_TRANSFER = 2, CE_PHASE_VERIFY = 3, CE_PHASE_WRITE = 4, CE_PHASE_ENDED = 5 };   /* TRANSFER: what is here already is taken in it, too */

typedef struct ce_join_progress {
    size_t struct_size;
    uint64_t bytes_done;     /* arrived */
    uint64_t bytes_total;    /* 0 until the plan is made */
    uint32_t lanes;          /* connections at work */
    uint32_t phase;          /* CE_PHASE_... */
    uint32_t state;          /* CE_JOIN_... */
    uint32_t buckets_done;   /* CE_TO_BUCKETS: consumed */
} ce_join_progress;

/* How far it is. Under 100 ns.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT.
 * Since:     0.2 */
CE_API ce_status ce_join_poll(ce_join *join, ce_join_progress *progress);

#define CE_FOREVER UINT64_MAX

/* Waits until it has ended. Any number of threads may, any number of times.
 * timeout_ms: the longest wait; 0 asks and does not wait; CE_FOREVER.
 * Returns:   CE_OK: all is there. CE_E_PENDING: not yet. Else how it failed, with the text in ce_last_error: then nothing of it is held.
 *            CE_E_CANCELLED after ce_join_cancel; CE_E_CALLBACK; CE_E_STATE: called from its own callback.
 * Since:     0.2 */
CE_API ce_status ce_join_wait(ce_join *join, uint64_t timeout_ms);

/* Asks it to end, and returns at once. A join that has ended already stays as it is.
 * Errors:    CE_E_HANDLE.
 * Since:     0.2 */
CE_API ce_status ce_join_cancel(ce_join *join);

typedef struct ce_join_report {
    size_t struct_size;
    uint64_t bytes;                  /* tensor data read, padding not counted */
    uint64_t tensors;
    double seconds;                  /* plan to publication; fetching metas is metas_seconds */
    double metas_seconds;
    double plan_seconds;             /* connecting to the owners and planning */
    double allocate_seconds;
    double transfer_seconds;         /* reading and hashing; with CE_TO_BUCKETS the callbacks that reading waited for, too */
    double verify_seconds;           /* waiting for digests that came after their bytes */
    double write_seconds;            /* completing and publishing */
    const char *unverified_reason;   /* static: "disabled", "owner-has-no-digests", "shared-mapping" (attached); NULL when verified */
    uint32_t verified;               /* 1: every byte was checked against its owner's digest */
    uint32_t buckets;
    /* since 0.3 */
    uint64_t attached_bytes;         /* not copied: they are in the owners' memory, mapped read-only */
    uint64_t reused_bytes;           /* not read, padding included: they were here already (earlier_checkpoint, or files of a join that was interrupted) */
    uint64_t retried_bytes;          /* asked for once more, since the connection or the owner that had been asked was lost, or sent something else */
    uint64_t relayed_bytes;          /* came from other joins and not from the owners, padding included (relay) */
} ce_join_report;

/* What it did.
 * Errors:    CE_E_HANDLE, CE_E_ARGUMENT; CE_E_STATE: it has not ended well.
 * Since:     0.2 */
CE_API ce_status ce_join_get_report(ce_join *join, ce_join_report *report);

/* Which way each owner's bytes came, and why not a better one: a line for each ("rank 0 at 10.0.0.5:40122: local, attached").
 * Errors:    as ce_join_get_report, CE_E_BUFFER_TOO_SMALL.
 * Since:     0.3 */
CE_API ce_status ce_join_planes(ce_join *join, char *buffer, size_t *size);

/* Remarks for the user (memory that could not be locked, replicas that were left out), one per line; empty when there are none.
 * Errors:    as ce_join_get_report, CE_E_BUFFER_TOO_SMALL.
 * Since:     0.2 */
CE_API ce_status ce_join_warnings(ce_join *join, char *buffer, size_t *size);

/* The checkpoint that a join with CE_TO_MEMORY has brought.
 * Ownership: destroy it with ce_checkpoint_destroy; it outlives the join and the server.
 * Errors:    CE_E_HANDLE; CE_E_STATE: it has not ended well, or went elsewhere.
 * Since:     0.2 */
CE_API ce_status ce_join_checkpoint(ce_join *join, ce_checkpoint **checkpoint);

/* Ends it if it runs, waits until no callback runs and nobody writes to the caller's memory any more, and forgets it. What it brought stays with
 * the server. Blocks, briefly.
 * Errors:    CE_E_HANDLE; CE_E_STATE: called from its own callback.
 * Since:     0.2 */
CE_API ce_status ce_join_destroy(ce_join *join);

#ifdef __cplusplus
}
#endif

#endif
