/* evex_matmul_avx2vnni.c - matmul_avx2vnni.c once more; see evex.h. */
#define VNNI_EVEX
#define matmul_avx2vnni_fill evex_matmul_fill
#include "cpu/x86/matmul_avx2vnni.c"
