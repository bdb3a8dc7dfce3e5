/* evex.c - the table of evex.h: avx2 with the two files of avx2vnni over it. */
#include "support/x86/evex.h"
#include <stddef.h>

void evex_dot_fill(cpu_kernels *k);
void evex_matmul_fill(cpu_kernels *k);

const cpu_kernels *evex_level(void) {
    static cpu_kernels table;
    if (!cpu_kernels_level("avx512vnni"))
        return NULL;
    table = *cpu_kernels_level("avx2");
    evex_dot_fill(&table);
    evex_matmul_fill(&table);
    return &table;
}
