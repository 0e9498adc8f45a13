/* Prints "struct field offset size" for the structs of CheckpointEngine.Core/Interop/LibTransferEngine.cs, and the constants' values.
 * Remake: cc -I MOONCAKE/mooncake-transfer-engine/include transfer-engine-layout.c -o /tmp/layout && /tmp/layout > transfer-engine-layout.txt */
#include <transfer_engine_c.h>
#include <stddef.h>
#include <stdio.h>

#define SIZE(type, name) printf(name " - 0 %zu\n", sizeof(type))
#define FIELD(type, name, field) printf(name " " #field " %zu %zu\n", offsetof(type, field), sizeof(((type *)0)->field))
#define VALUE(name) printf("const " #name " %lld\n", (long long)(name))

int main(void)
{
    SIZE(transfer_request_t, "TransferRequest");
    FIELD(transfer_request_t, "TransferRequest", opcode);
    FIELD(transfer_request_t, "TransferRequest", source);
    FIELD(transfer_request_t, "TransferRequest", target_id);
    FIELD(transfer_request_t, "TransferRequest", target_offset);
    FIELD(transfer_request_t, "TransferRequest", length);
    SIZE(transfer_status_t, "TransferStatus");
    FIELD(transfer_status_t, "TransferStatus", status);
    FIELD(transfer_status_t, "TransferStatus", transferred_bytes);
    SIZE(buffer_entry_t, "BufferEntry");
    FIELD(buffer_entry_t, "BufferEntry", addr);
    FIELD(buffer_entry_t, "BufferEntry", length);
    VALUE(OPCODE_READ);
    VALUE(STATUS_WAITING);
    VALUE(STATUS_PENDING);
    VALUE(STATUS_INVALID);
    VALUE(STATUS_CANCELED);
    VALUE(STATUS_COMPLETED);
    VALUE(STATUS_TIMEOUT);
    VALUE(STATUS_FAILED);
    return 0;
}
