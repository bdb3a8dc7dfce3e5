/* evex.h - the kernels of the level avx2vnni with their instruction in AVX-512's encoding (EVEX): it computes the same,
 * and many machines have it there alone. */
#ifndef TESTS_EVEX_H
#define TESTS_EVEX_H
#include "cpu/kernels.h"

/* The table that avx2vnni has, on a machine with avx512vnni; NULL without. */
const cpu_kernels *evex_level(void);
#endif
