/* The limit that TCP transfers are measured against: a bare socket pump, with nothing between the calls.
 *
 *   pump serve SOURCE_BYTES CONGESTION...          a listener on 127.0.0.1 for each congestion control ("default" leaves the system's);
 *                                                  prints the ports in that order on one line, then serves until its stdin ends
 *   pump receive PORT BYTES warm|cold ROUNDS CONNECTIONS [BLOCK]
 *                                                  prints the seconds of each round, one a line
 *
 * The server sends from warm anonymous memory in huge pages, the client receives into memory of the same kind, both by calls of 1 MiB at most.
 * BLOCK: a message of that size again and again, out of one buffer and into one of that size (one for each connection); without it the bytes
 * are one message.
 * warm: the same memory and connections each round, after a round that does not count.
 * cold: fresh connections and fresh memory each round; mmap, madvise and the page faults are inside the time, connect and munmap are not.
 * Several connections share the bytes evenly.
 */
#include "../Shared/region.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CALL_BYTES = 1 << 20, MAX_CONNECTIONS = 64 };

static char *source;
static size_t source_bytes;

/* How many bytes, in messages of what size. */
typedef struct {
    uint64_t bytes, block;
} request;

/* The most that the next call may move: not past the end of the message, nor of all. */
static size_t call_bytes(request r, uint64_t at) {
    size_t n = CALL_BYTES;
    if (n > r.bytes - at) n = r.bytes - at;
    if (n > r.block - at % r.block) n = r.block - at % r.block;
    return n;
}

static void *serve_connection(void *argument) {
    int socket = (int)(intptr_t)argument;
    request r;
    while (recv(socket, &r, sizeof r, MSG_WAITALL) == sizeof r) {
        if (r.block == 0 || r.block > source_bytes) r.block = source_bytes;
        for (uint64_t at = 0; at < r.bytes;) {
            ssize_t sent = send(socket, source + at % r.block, call_bytes(r, at), MSG_NOSIGNAL);
            if (sent <= 0) goto end;
            at += (uint64_t)sent;
        }
    }
end:
    close(socket);
    return NULL;
}

static void *accept_all(void *argument) {
    int listener = (int)(intptr_t)argument;
    for (;;) {
        int socket = accept(listener, NULL, NULL);
        if (socket < 0) fail("accept");
        pthread_t thread;
        pthread_create(&thread, NULL, serve_connection, (void *)(intptr_t)socket);
        pthread_detach(thread);
    }
    return NULL;
}

static void serve(int count, char **congestion) {
    source = map_region(source_bytes).start;
    for (size_t i = 0; i + 8 <= source_bytes; i += 8) *(uint64_t *)(source + i) = i * 0x9E3779B97F4A7C15ull;
    for (int i = 0; i < count; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t length = sizeof address;
        int listener = socket(AF_INET, SOCK_STREAM, 0);
        if (strcmp(congestion[i], "default") != 0
            && setsockopt(listener, IPPROTO_TCP, TCP_CONGESTION, congestion[i], (socklen_t)strlen(congestion[i])) != 0) fail(congestion[i]);
        if (bind(listener, (void *)&address, length) != 0 || listen(listener, MAX_CONNECTIONS) != 0) fail("listen");
        getsockname(listener, (void *)&address, &length);
        printf(i == 0 ? "%d" : " %d", ntohs(address.sin_port));
        pthread_t thread;
        pthread_create(&thread, NULL, accept_all, (void *)(intptr_t)listener);
    }
    printf("\n");
    fflush(stdout);
    char ignored;
    while (read(0, &ignored, 1) > 0) {}
}

typedef struct {
    int socket;
    char *destination;
    request request;
} share;

static void *receive_share(void *argument) {
    share *s = argument;
    if (send(s->socket, &s->request, sizeof s->request, MSG_NOSIGNAL) != sizeof s->request) fail("send");
    for (uint64_t at = 0; at < s->request.bytes;) {
        ssize_t got = recv(s->socket, s->destination + at % s->request.block, call_bytes(s->request, at), 0);
        if (got <= 0) fail("recv");
        at += (uint64_t)got;
    }
    return NULL;
}

static void connect_all(share *shares, int connections, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    for (int i = 0; i < connections; i++) {
        shares[i].socket = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(shares[i].socket, (void *)&address, sizeof address) != 0) fail("connect");
    }
}

static void receive_round(share *shares, int connections, char *destination, request all) {
    pthread_t threads[MAX_CONNECTIONS];
    uint64_t even = all.bytes / (uint64_t)connections;
    for (int i = 0; i < connections; i++) {
        request *mine = &shares[i].request;
        mine->bytes = i == connections - 1 ? all.bytes - even * (uint64_t)i : even;
        mine->block = all.block < even ? all.block : mine->bytes;
        shares[i].destination = destination + (all.block < even ? all.block : even) * (uint64_t)i;
        if (i != 0) pthread_create(&threads[i], NULL, receive_share, &shares[i]);
    }
    receive_share(&shares[0]);
    for (int i = 1; i < connections; i++) pthread_join(threads[i], NULL);
}

static int receive(int port, request all, int cold, int rounds, int connections) {
    share shares[MAX_CONNECTIONS];
    region warm = {0};
    size_t room = all.block < all.bytes / (uint64_t)connections ? all.block * (uint64_t)connections : all.bytes;
    if (!cold) {
        warm = map_region(room);
        connect_all(shares, connections, port);
        receive_round(shares, connections, warm.start, all);
    }
    for (int round = 0; round < rounds; round++) {
        if (cold) connect_all(shares, connections, port);
        double start = now();
        region r = cold ? map_region(room) : warm;
        receive_round(shares, connections, r.start, all);
        printf("%.6f\n", now() - start);
        if (cold) {
            munmap(r.mapping, r.mapped_bytes);
            for (int i = 0; i < connections; i++) close(shares[i].socket);
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc >= 4 && strcmp(argv[1], "serve") == 0) {
        source_bytes = strtoull(argv[2], NULL, 10);
        serve(argc - 3, argv + 3);
        return 0;
    }
    if ((argc == 7 || argc == 8) && strcmp(argv[1], "receive") == 0) {
        int connections = atoi(argv[6]);
        request all = {.bytes = strtoull(argv[3], NULL, 10)};
        all.block = argc == 8 ? strtoull(argv[7], NULL, 10) : all.bytes;
        if (connections >= 1 && connections <= MAX_CONNECTIONS && all.block >= 1 && all.bytes >= (uint64_t)connections)
            return receive(atoi(argv[2]), all, strcmp(argv[4], "cold") == 0, atoi(argv[5]), connections);
    }
    fprintf(stderr, "usage: pump serve SOURCE_BYTES CONGESTION... | pump receive PORT BYTES warm|cold ROUNDS CONNECTIONS [BLOCK]\n");
    return 2;
}
