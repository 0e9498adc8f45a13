/* TLS of the peer service, limits and the audit log, as a server of the C interface has them.
 * usage: guards DIRECTORY   with ca.pem, other-ca.pem, server.pem, server.key, client.pem, client.key; it writes audit.log and plain.log there */
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

static ce_status join(ce_server_options options, const char *url) {
    ce_server *joiner;
    ce_join *started;
    ce_join_report report = { .struct_size = sizeof report };
    ce_join_options join_options = { .struct_size = sizeof join_options, .metas_url = url, .destination = CE_TO_NULL, .transport = CE_TRANSPORT_TCP, .verify = CE_VERIFY_REQUIRE };
    options.flags = CE_SERVER_JOIN_ONLY;
    MUST(ce_server_create(&options, &joiner));
    MUST(ce_join_start(joiner, &join_options, &started));
    ce_status status = ce_join_wait(started, CE_FOREVER);
    if (status == CE_OK) {
        OK(ce_join_get_report(started, &report));
        CHECK(report.verified == 1);
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
    options.tls_cert_file = path_of(nowhere, "nowhere.pem");
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
    limits(&model);
    refused();
    model_free(&model);
    return test_end("guards");
}
