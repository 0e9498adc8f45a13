/* CheckpointEngine: holds model weights in registered memory and lets other processes read them one-sidedly. The C interface.
 *
 * This header is at its beginning: it tells which library is loaded, and no more. Holding, joining and reading tensors follow.
 *
 *     if (ce_abi_version() >> 8 != CE_ABI_MAJOR) { return "this library speaks another interface"; }
 *     printf("checkpoint engine %s\n", ce_version());
 *
 * Link with -lcheckpoint_engine, or open libcheckpoint_engine.so.0 with dlopen(3).
 *
 * What the .NET runtime inside does to the process: it starts a thread when the library is loaded and more from first use; it installs
 * handlers for SIGSEGV, SIGFPE and one real-time signal and ignores SIGPIPE; the library is never unloaded; it must not be used on both
 * sides of a fork. It runs beside another .NET runtime in the same process. The CPU must have x86-64-v3 (AVX2, BMI2, FMA).
 *
 * C99 and C++17. */
#ifndef CHECKPOINT_ENGINE_H
#define CHECKPOINT_ENGINE_H

#include <stdint.h>

#define CE_ABI_MAJOR 0
#define CE_ABI_MINOR 1

#if defined(_WIN32)
#define CE_API __declspec(dllimport)
#else
#define CE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface: major in the high 24 bits, minor in the low 8. Another major is another interface; a higher minor has more.
 * Threads:   any, at any time.
 * Since:     0.1 */
CE_API uint32_t ce_abi_version(void);

/* The version of the library, for example "0.1.0".
 * Ownership: static text, valid as long as the process lives.
 * Threads:   any, at any time.
 * Since:     0.1 */
CE_API const char *ce_version(void);

#ifdef __cplusplus
}
#endif

#endif
