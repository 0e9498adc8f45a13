/* Metas documents through the C interface: reads each, walks it, writes it in both forms, reads those again and walks those.
 * usage: metas DOCUMENT   prints "owner RANK ADDRESS" and "tensor RANK NAME DTYPE SHAPE BYTES" lines of the first reading */
#include "test.h"

static char *read_all(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *data = (char *)malloc(*size);
    if (fread(data, 1, *size, file) != *size) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return data;
}

static void walk(ce_metas *metas, FILE *out) {
    for (uint64_t i = 0; i < ce_metas_owner_count(metas); i++) {
        int32_t rank = -1;
        size_t needed = 0;
        char address[256];
        size_t size = sizeof address;
        EITHER(CE_E_BUFFER_TOO_SMALL, CE_OK, ce_metas_owner(metas, i, NULL, NULL, &needed));
        OK(ce_metas_owner(metas, i, &rank, address, &size));
        CHECK(size == needed && size == strlen(address) + 1);
        fprintf(out, "owner %" PRId32 " %s\n", rank, address);
    }
    for (uint64_t i = 0; i < ce_metas_tensor_count(metas); i++) {
        ce_tensor tensor;
        int32_t rank = -1;
        if (!OK(ce_metas_tensor(metas, i, &tensor, &rank))) {
            continue;
        }
        CHECK(tensor.data == NULL);
        fprintf(out, "tensor %" PRId32 " %s %s [", rank, tensor.name, ce_dtype_name(tensor.dtype));
        for (uint32_t d = 0; d < tensor.rank; d++) {
            fprintf(out, "%s%" PRId64, d == 0 ? "" : ",", tensor.shape[d]);
        }
        fprintf(out, "] %" PRIu64 "\n", tensor.size_bytes);
    }
}

static char *walked(ce_metas *metas) {
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    walk(metas, out);
    fclose(out);
    return text;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    test_patience(30);
    size_t size;
    char *document = read_all(argv[1], &size);
    ce_metas *metas;
    MUST(ce_metas_parse(document, size, &metas));
    memset(document, 0, size);
    free(document);      /* not kept */
    char *text = walked(metas);
    fputs(text, stdout);
    for (uint32_t format = CE_METAS_JSON; format <= CE_METAS_PICKLE; format++) {
        const void *data;
        const void *again_data;
        const void *rewritten;
        size_t again_size;
        size_t rewritten_size;
        ce_metas *again;
        MUST(ce_metas_write(metas, format, &data, &size));
        OK(ce_metas_write(metas, format, &again_data, &again_size));
        CHECK(data == again_data && size == again_size);      /* made once */
        MUST(ce_metas_parse(data, size, &again));
        char *text_again = walked(again);
        CHECK(strcmp(text, text_again) == 0);
        OK(ce_metas_write(again, format, &rewritten, &rewritten_size));
        CHECK(rewritten_size == size && memcmp(rewritten, data, size) == 0);
        free(text_again);
        OK(ce_metas_destroy(again));
    }
    free(text);
    OK(ce_metas_destroy(metas));
    return test_failures == 0 ? 0 : 1;
}
