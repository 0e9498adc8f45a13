/* TLS of the peer service and of the data port, secrets that change, limits and the audit log, as a server of the C interface has them.
 * usage: guards DIRECTORY   with ca.pem, other-ca.pem, server.pem, server.key, client.pem, client.key, and other-server.pem and .key, which are of the
 * other authority; it writes audit.log, plain.log, turning.pem and turning.key there */
#include "test.h"

static const char *directory;

static const char *path_of(char *path, const char *name) {
    snprintf(path, 512, "%s/%s", directory, name);
    return path;
}

static int log_has(const char *name, const char *word) {
    char path[512];
    char text[16384] = "";
    FILE *file = fopen(path_of(path, name), "r");
    if (file == NULL) {
        return 0;
    }
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return strstr(text, word) != NULL;
}

static char planes[256];     /* of the last join that succeeded */

static ce_status join(ce_server_options options, const char *url) {
    ce_server *joiner;
    ce_join *started;
    size_t size = sizeof planes;
    ce_join_report report = { .struct_size = sizeof report };
    ce_join_options join_options = { .struct_size = sizeof join_options, .metas_url = url, .destination = CE_TO_NULL, .transport = CE_TRANSPORT_TCP, .verify = CE_VERIFY_REQUIRE };
    options.flags = CE_SERVER_JOIN_ONLY;
    MUST(ce_server_create(&options, &joiner));
    MUST(ce_join_start(joiner, &join_options, &started));
    ce_status status = ce_join_wait(started, CE_FOREVER);
    if (status == CE_OK) {
        OK(ce_join_get_report(started, &report));
        CHECK(report.verified == 1);
        OK(ce_join_planes(started, planes, &size));
    }
    OK(ce_join_destroy(started));
    OK(ce_server_destroy(joiner));
    return status;
}

static ce_server *serve(const ce_server_options *options, const struct model *model, char *url, size_t size) {
    ce_server *server;
    MUST(ce_server_create(options, &server));
    MUST(ce_server_register_tensors(server, "m", model->tensors, MODEL_TENSORS));
    MUST(ce_server_peer_url(server, url, &size));
    strcat(url, "/m");
    return server;
}

static void tls(const struct model *model) {
    char cert[512], key[512], ca[512], other[512], client[512], client_key[512], audit[512], url[256];
    ce_server_options guarded = {
        .struct_size = sizeof guarded,
        .tls_cert_file = path_of(cert, "server.pem"),
        .tls_key_file = path_of(key, "server.key"),
        .tls_client_ca_file = path_of(ca, "ca.pem"),
        .audit_log = path_of(audit, "audit.log"),
        .max_leases = 4,
        .max_in_flight_kib = 256,
    };
    ce_server_options ours = { .struct_size = sizeof ours, .ca_file = ca, .cert_file = path_of(client, "client.pem"), .key_file = path_of(client_key, "client.key"), .require_tls = 1 };
    ce_server_options stranger = { .struct_size = sizeof stranger, .ca_file = ca };
    ce_server_options misled = ours;
    ce_server *holder = serve(&guarded, model, url, sizeof url);
    misled.ca_file = path_of(other, "other-ca.pem");

    CHECK(strncmp(url, "ce+tls://", 9) == 0);
    OK(join(ours, url));
    IS(CE_E_REFUSED, join(misled, url));
    EITHER(CE_E_REFUSED, CE_E_UNREACHABLE, join(stranger, url));        /* without a certificate; who is told so depends on who reads first */
    OK(ce_server_destroy(holder));
    CHECK(log_has("audit.log", "register checkpoint='m'"));
    CHECK(log_has("audit.log", "lease-taken peer=127.0.0.1"));
    CHECK(log_has("audit.log", "(CN=client)"));
    CHECK(log_has("audit.log", "how=released"));
    CHECK(log_has("audit.log", "refuse where=peers"));
    CHECK(!log_has("audit.log", "\n\n"));
}

static void encrypted(const struct model *model) {
    char cert[512], key[512], ca[512], other[512], url[256];
    ce_server_options guarded = { .struct_size = sizeof guarded, .token = "token", .tls_cert_file = path_of(cert, "server.pem"), .tls_key_file = path_of(key, "server.key") };
    ce_server_options ours = { .struct_size = sizeof ours, .token = "token", .ca_file = path_of(ca, "ca.pem"), .require_encryption = 1 };
    ce_server_options undemanding = ours, misled = ours, stranger = ours;
    ce_server *holder = serve(&guarded, model, url, sizeof url);
    undemanding.require_encryption = 0;
    misled.ca_file = path_of(other, "other-ca.pem");
    stranger.token = "another";

    OK(join(undemanding, url));
    CHECK(strstr(planes, ": tcp") != NULL && strstr(planes, "encrypted") == NULL);
    IS(CE_E_REFUSED, join(ours, url));      /* its peer service speaks TLS, and its data port does not */
    OK(ce_server_destroy(holder));

    guarded.encrypt_data = 1;
    holder = serve(&guarded, model, url, sizeof url);
    OK(join(ours, url));
    CHECK(strstr(planes, "tcp, encrypted") != NULL);
    OK(join(undemanding, url));
    CHECK(strstr(planes, "tcp, encrypted") != NULL);
    IS(CE_E_REFUSED, join(misled, url));
    IS(CE_E_REFUSED, join(stranger, url));
    OK(ce_server_destroy(holder));
}

/* Puts a copy of a file where another one is or is not, at once. */
static void put(const char *name, const char *from) {
    char source[512], beside[512], target[512], bytes[16384];
    FILE *file = fopen(path_of(source, from), "r");
    CHECK(file != NULL);
    size_t length = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    file = fopen(path_of(beside, "beside"), "w");
    CHECK(file != NULL && fwrite(bytes, 1, length, file) == length);
    fclose(file);
    CHECK(rename(beside, path_of(target, name)) == 0);
}

static void secrets(const struct model *model) {
    char cert[512], key[512], ca[512], other[512], url[256];
    put("turning.pem", "server.pem");
    put("turning.key", "server.key");
    ce_server_options guarded = { .struct_size = sizeof guarded, .token = "old", .tls_cert_file = path_of(cert, "turning.pem"), .tls_key_file = path_of(key, "turning.key"), .encrypt_data = 1 };
    ce_server_options old = { .struct_size = sizeof old, .token = "old", .ca_file = path_of(ca, "ca.pem"), .require_encryption = 1 };
    ce_server_options renewed = old;
    ce_server *holder = serve(&guarded, model, url, sizeof url);
    renewed.token = "new";

    OK(join(old, url));
    IS(CE_E_REFUSED, join(renewed, url));
    OK(ce_server_set_token(holder, "old\nnew"));
    OK(join(old, url));
    OK(join(renewed, url));
    OK(ce_server_set_token(holder, "new"));
    IS(CE_E_REFUSED, join(old, url));
    OK(join(renewed, url));
    IS(CE_E_ARGUMENT, ce_server_set_token(holder, " \n"));
    OK(join(renewed, url));

    put("turning.key", "other-server.key");
    put("turning.pem", "other-server.pem");
    OK(ce_server_reload_certificates(holder));
    IS(CE_E_REFUSED, join(renewed, url));
    renewed.ca_file = path_of(other, "other-ca.pem");
    OK(join(renewed, url));
    put("turning.pem", "server.key");       /* which is no certificate */
    IS(CE_E_INVALID_DATA, ce_server_reload_certificates(holder));
    OK(join(renewed, url));
    CHECK(remove(cert) == 0);
    IS(CE_E_IO, ce_server_reload_certificates(holder));
    OK(join(renewed, url));
    OK(ce_server_destroy(holder));
    IS(CE_E_HANDLE, ce_server_reload_certificates(holder));

    ce_server_options bare = { .struct_size = sizeof bare };
    MUST(ce_server_create(&bare, &holder));
    IS(CE_E_STATE, ce_server_set_token(holder, "new"));
    IS(CE_E_STATE, ce_server_reload_certificates(holder));
    OK(ce_server_destroy(holder));
}

struct follower {
    const char *url;
    ce_cancel *cancel;
};

/* While the other thread has the one place, or took it from one that had said nothing yet. */
static int is_in_the_way(ce_status status) { return status == CE_E_BUSY || status == CE_E_UNREACHABLE; }

static void *follow(void *argument) {
    struct follower *follower = (struct follower *)argument;
    ce_metas *known = NULL;
    ce_metas *news;
    ce_status status;
    do {
        status = ce_metas_follow(follower->url, NULL, NULL, CE_FOREVER, follower->cancel, &known);
    } while (is_in_the_way(status));
    while (status == CE_OK || is_in_the_way(status)) {      /* until it is cancelled: nothing changes */
        status = ce_metas_follow(follower->url, NULL, known, CE_FOREVER, follower->cancel, &news);
    }
    IS(CE_E_CANCELLED, status);
    OK(ce_metas_destroy(known));
    return NULL;
}

static void limits(const struct model *model) {
    char url[256], audit[512];
    ce_server_options narrow = { .struct_size = sizeof narrow, .max_peers = 1, .max_requests = 1000, .max_data = 64, .max_data_of_address = 32, .max_handshakes = 64, .max_handshakes_of_address = 64,
                                 .audit_log = path_of(audit, "plain.log") };
    ce_server_options demanding = { .struct_size = sizeof demanding, .require_tls = 1 };
    ce_server *holder = serve(&narrow, model, url, sizeof url);
    struct follower follower = { url, NULL };
    ce_metas *metas;
    ce_status status;
    IS(CE_E_REFUSED, join(demanding, url));

    MUST(ce_cancel_create(&follower.cancel));
    pthread_t thread = thread_start(follow, &follower);
    do {        /* until its conversation has the one place */
        status = ce_metas_fetch(url, NULL, NULL, &metas);
        if (status == CE_OK) {
            OK(ce_metas_destroy(metas));
            usleep(1000);
        }
    } while (status == CE_OK || status == CE_E_UNREACHABLE);
    CHECK(status == CE_E_BUSY);
    OK(ce_cancel_trigger(follower.cancel));
    thread_end(thread);
    OK(ce_cancel_destroy(follower.cancel));
    OK(ce_server_destroy(holder));
    CHECK(log_has("plain.log", "unregister checkpoint='m'") || log_has("plain.log", "register checkpoint='m'"));
}

static void refused(void) {
    char nowhere[512], cert[512], key[512];
    ce_server *server = NULL;
    ce_server_options options = { .struct_size = sizeof options, .tls_key_file = path_of(key, "server.key") };
    IS(CE_E_ARGUMENT, ce_server_create(&options, &server));
    options = (ce_server_options) { .struct_size = sizeof options, .encrypt_data = 1 };
    IS(CE_E_ARGUMENT, ce_server_create(&options, &server));
    options.flags = CE_SERVER_JOIN_ONLY;
    IS(CE_E_ARGUMENT, ce_server_create(&options, &server));
    options = (ce_server_options) { .struct_size = sizeof options, .encrypt_data = 1, .tls_cert_file = path_of(cert, "server.pem"), .tls_key_file = path_of(key, "server.key"), .plain_peers = "all" };
    IS(CE_E_ARGUMENT, ce_server_create(&options, &server));
    options.plain_peers = NULL;
    options.transport = CE_TRANSPORT_RDMA;
    IS(CE_E_ARGUMENT, ce_server_create(&options, &server));
    options = (ce_server_options) { .struct_size = sizeof options, .tls_cert_file = path_of(nowhere, "nowhere.pem"), .tls_key_file = key };
    IS(CE_E_IO, ce_server_create(&options, &server));
    options.tls_cert_file = key;        /* a key is no certificate */
    IS(CE_E_INVALID_DATA, ce_server_create(&options, &server));
    options = (ce_server_options) { .struct_size = sizeof options, .cert_file = path_of(cert, "client.pem") };
    IS(CE_E_ARGUMENT, ce_server_create(&options, &server));
    options.key_file = path_of(nowhere, "nowhere.key");
    IS(CE_E_IO, ce_server_create(&options, &server));
    options = (ce_server_options) { .struct_size = sizeof options, .audit_log = path_of(nowhere, "no/such/audit.log") };
    IS(CE_E_IO, ce_server_create(&options, &server));
    options = (ce_server_options) { .struct_size = sizeof options, .max_in_flight_kib = (1u << 20) + 1 };
    IS(CE_E_ARGUMENT, ce_server_create(&options, &server));
    options = (ce_server_options) { .struct_size = sizeof options, .max_leases = UINT32_MAX };
    IS(CE_E_ARGUMENT, ce_server_create(&options, &server));
    options = (ce_server_options) { .struct_size = sizeof options, .max_handshakes_of_address = UINT32_MAX };
    IS(CE_E_ARGUMENT, ce_server_create(&options, &server));
    CHECK(server == NULL);
}

int main(int argc, char **argv) {
    struct model model;
    if (argc != 2) {
        return 2;
    }
    test_patience(120);
    directory = argv[1];
    model_make(&model, 1);
    tls(&model);
    encrypted(&model);
    secrets(&model);
    limits(&model);
    refused();
    model_free(&model);
    return test_end("guards");
}
