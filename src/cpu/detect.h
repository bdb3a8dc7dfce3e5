/* detect.h - what this processor and its operating system really allow, as a set of kernel levels. */
#ifndef CPU_DETECT_H
#define CPU_DETECT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cpu_level { /* in rising order of preference on one machine */
                         CPU_PORTABLE,
                         CPU_AVX2,       /* AVX2, FMA, F16C */
                         CPU_AVX2VNNI,   /* and AVX-VNNI */
                         CPU_AVX512,     /* F, BW, VL, DQ */
                         CPU_AVX512VNNI, /* and VNNI */
                         CPU_AMX,        /* and AMX-INT8, with the system's permission */
                         CPU_NEON,       /* 64-bit Arm with dot products of bytes (Armv8.2 and up) */
                         CPU_LEVEL_COUNT,
} cpu_level;

/* Whether code of this level runs here: the instructions exist and the system saves their registers. Asks the processor
 * each time, so that callers keep the answer. */
bool cpu_detect(cpu_level level);

/* What the answer rests on. x86: words of CPUID, the registers that the system saves (XCR0), and whether it let this
 * process use AMX tiles (asked for only where CPUID and XCR0 have them). Arm: the system's word of what it supports. */
typedef struct cpu_features {
    unsigned ecx1, ebx7, ecx7, edx7, eax71;
    unsigned eax1a; /* of 8000_001A: how wide AMD's processors execute */
    uint64_t saved;
    bool tiles_permitted;
    uint64_t hwcap; /* AT_HWCAP */
} cpu_features;
cpu_features cpu_detect_features(void);
bool cpu_detect_from(const cpu_features *features, cpu_level level);
/* Whether vectors of 512 bits are worked on in two passes. */
bool cpu_detect_narrow(const cpu_features *features);
/* "AMD EPYC 9B45, 4 CPUs": writes at most cap bytes with the final 0; "unknown CPU, ..." when the system has no name.
 */
void cpu_detect_name(char *out, size_t cap);
#endif
