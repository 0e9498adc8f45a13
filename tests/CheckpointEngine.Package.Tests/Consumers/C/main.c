#include <checkpoint_engine.h>
#include <stdio.h>

int main(void) {
    if (ce_abi_version() >> 8 != CE_ABI_MAJOR) {
        return 1;
    }
    puts(ce_version());
    return 0;
}
