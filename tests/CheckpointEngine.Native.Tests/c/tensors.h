/* Tensors that the test describes, and tensors written for the test to compare.
 *
 * A manifest has a line for each tensor: name, number of the dtype, dimensions with commas ("-" for a scalar), offset into the bytes, size; parted
 * by tabs. Tensors are written as such a line without the offset, then their bytes. */
#ifndef TENSORS_H
#define TENSORS_H

#include "checkpoint_engine.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS_MAX = 64, TENSORS_MAX_RANK = 8 };

struct tensors {
    ce_tensor all[TENSORS_MAX];
    int64_t shapes[TENSORS_MAX][TENSORS_MAX_RANK];
    char names[TENSORS_MAX][256];
    size_t count;
    unsigned char *bytes;
    size_t bytes_size;
};

static inline FILE *tensors_open(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    return file;
}

static inline void tensors_read(struct tensors *tensors, const char *manifest, const char *bytes) {
    FILE *file = tensors_open(bytes);
    fseek(file, 0, SEEK_END);
    tensors->bytes_size = (size_t)ftell(file);
    rewind(file);
    tensors->bytes = (unsigned char *)malloc(tensors->bytes_size + 1);
    if (tensors->bytes == NULL || fread(tensors->bytes, 1, tensors->bytes_size, file) != tensors->bytes_size) {
        perror(bytes);
        exit(1);
    }
    fclose(file);
    file = tensors_open(manifest);
    char shape[128];
    uint64_t offset;
    while (tensors->count < TENSORS_MAX) {
        ce_tensor *tensor = &tensors->all[tensors->count];
        char *name = tensors->names[tensors->count];
        int64_t *dimensions = tensors->shapes[tensors->count];
        memset(tensor, 0, sizeof *tensor);
        if (fscanf(file, " %255[^\t]\t%" SCNu32 "\t%127[^\t]\t%" SCNu64 "\t%" SCNu64, name, &tensor->dtype, shape, &offset, &tensor->size_bytes) != 5) {
            break;
        }
        if (strcmp(shape, "-") != 0) {
            for (char *part = strtok(shape, ","); part != NULL; part = strtok(NULL, ",")) {
                dimensions[tensor->rank++] = strtoll(part, NULL, 10);
            }
        }
        tensor->name = name;
        tensor->shape = dimensions;
        tensor->data = tensor->size_bytes == 0 ? NULL : tensors->bytes + offset;
        tensors->count++;
    }
    fclose(file);
}

static inline void tensors_write(FILE *file, const ce_tensor *tensor) {
    fprintf(file, "%s\t%s\t", tensor->name, ce_dtype_name(tensor->dtype));
    for (uint32_t d = 0; d < tensor->rank; d++) {
        fprintf(file, "%s%" PRId64, d == 0 ? "" : ",", tensor->shape[d]);
    }
    fprintf(file, "\t%" PRIu64 "\n", tensor->size_bytes);
    if (tensor->size_bytes != 0) {
        fwrite(tensor->data, 1, tensor->size_bytes, file);
    }
}

static inline void tensors_free(struct tensors *tensors) { free(tensors->bytes); }

#endif
