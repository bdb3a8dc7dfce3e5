/* tiles.h - the tile instructions of AMX-INT8 that a product needs, each as one macro.
 *
 * Eight tile registers of 16 rows of 64 bytes (palette 1), of which tiles_open says how many rows and bytes are in use.
 * Registers are numbers in the instruction, so the arguments t, a and b are literals 0 to 7. They are written as asm:
 * the intrinsics of GCC 12 tell the compiler of 8 of a configuration's 64 bytes, and of none of those that a tile is
 * loaded from. No compiler uses tile registers on its own, so none can clobber them.
 *
 * Who opens closes: the registers are part of a thread's state, which the system saves and restores on each switch
 * while they are open, and which other code must find as it left it. The system's permission is the process'
 * (detect.c).
 *
 * TILES_EMULATED, where defined, is a header that has the same in plain C, for tests on machines without AMX. Source:
 * Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1 chapter "Programming with Intel AMX" and
 * volume 2 under each instruction's name. */
#ifndef CPU_X86_TILES_H
#define CPU_X86_TILES_H
#include <stddef.h>
#include <stdint.h>

typedef struct tiles_config { /* as LDTILECFG reads it; registers that are not used have 0 rows of 0 bytes */
    _Alignas(64) uint8_t palette;
    uint8_t start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tiles_config;

#ifdef TILES_EMULATED
#include TILES_EMULATED
#else
/* From here to tiles_close the registers have the configuration's shapes; they hold zeros at first. */
static inline void tiles_open(const tiles_config *config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*config));
}
/* All registers unused, as they are when a thread starts. */
static inline void tiles_close(void) {
    __asm__ volatile("tilerelease");
}
/* Each row of t from or to from + row * stride. */
#define tiles_load(t, from, stride)                                                                                    \
    __asm__ volatile("tileloadd (%0, %1), %%tmm" #t : : "r"(from), "r"((size_t)(stride)) : "memory")
#define tiles_store(t, to, stride)                                                                                     \
    __asm__ volatile("tilestored %%tmm" #t ", (%0, %1)" : : "r"(to), "r"((size_t)(stride)) : "memory")
#define tiles_zero(t)      __asm__ volatile("tilezero %%tmm" #t : :)
/* t[m][n] += sum over k and i < 4 of a[m][4k + i] * b[k][4n + i], in 32 bits; bytes of a signed, of b unsigned. */
#define tiles_dot(t, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #t : :)
#endif
#endif
