/* vnni_256.h - the 256-bit vpdpbusd: sum + 4 products of unsigned by signed bytes in each 32-bit lane.
 *
 * Asm, as GCC 12 shuffles the intrinsic's accumulators. The encoding is AVX-VNNI's; VNNI_EVEX, for tests on machines
 * that have VNNI in AVX-512 alone, takes that one's, which does the same. */
#ifndef CPU_X86_VNNI_256_H
#define CPU_X86_VNNI_256_H
#include "cpu/x86/lanes_avx2.h"

#ifdef VNNI_EVEX
#define VNNI_ENCODING "%{evex%}"
#else
#define VNNI_ENCODING "%{vex%}"
#endif

INLINE __m256i vnni_256(__m256i sum, __m256i code, __m256i a) {
    __asm__(VNNI_ENCODING " vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(code), "x"(a));
    return sum;
}
#endif
