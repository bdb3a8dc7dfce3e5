/* fill.h - private to src/cpu: every kernel file hides its kernels and shows one function that writes them into the
 * table. The portable ones together fill all of it; an ISA's overlay what they do better and leave the rest. */
#ifndef CPU_FILL_H
#define CPU_FILL_H
#include "cpu/kernels.h"

void tile_portable_fill(cpu_kernels *k);
void dot_portable_fill(cpu_kernels *k);
void book_portable_fill(cpu_kernels *k);
void low_rank_portable_fill(cpu_kernels *k);
void sparse_portable_fill(cpu_kernels *k);
void ends_portable_fill(cpu_kernels *k);
void transpose_portable_fill(cpu_kernels *k);
void softmax_portable_fill(cpu_kernels *k);
void rows_portable_fill(cpu_kernels *k);
void matmul_portable_fill(cpu_kernels *k);

#ifdef __x86_64__
void tile_avx2_fill(cpu_kernels *k);
void dot_avx2_fill(cpu_kernels *k);
void fold_avx2_fill(cpu_kernels *k);
void book_avx2_fill(cpu_kernels *k);
void low_rank_avx2_fill(cpu_kernels *k);
void sparse_avx2_fill(cpu_kernels *k);
void ends_avx2_fill(cpu_kernels *k);
void transpose_avx2_fill(cpu_kernels *k);
void softmax_avx2_fill(cpu_kernels *k);
void rows_avx2_fill(cpu_kernels *k);
void matmul_avx2_fill(cpu_kernels *k);
void matmul_float_avx2_fill(cpu_kernels *k);

void dot_avx2vnni_fill(cpu_kernels *k);
void matmul_avx2vnni_fill(cpu_kernels *k);

void tile_avx512_fill(cpu_kernels *k);
void tile_narrow_avx512_fill(cpu_kernels *k); /* over tile_avx512 */
void fold_avx512_fill(cpu_kernels *k);
void low_rank_avx512_fill(cpu_kernels *k);
void softmax_avx512_fill(cpu_kernels *k);
void rows_avx512_fill(cpu_kernels *k);
void matmul_avx512_fill(cpu_kernels *k);
void matmul_float_avx512_fill(cpu_kernels *k);

void dot_avx512vnni_fill(cpu_kernels *k);
void book_avx512vnni_fill(cpu_kernels *k);
void matmul_avx512vnni_fill(cpu_kernels *k);

void matmul_amx_fill(cpu_kernels *k); /* over avx512vnni's table; keeps it for calls with few tokens */
#endif

#ifdef __aarch64__
void tile_neon_fill(cpu_kernels *k);
void dot_neon_fill(cpu_kernels *k);
void fold_neon_fill(cpu_kernels *k);
void book_neon_fill(cpu_kernels *k);
void softmax_neon_fill(cpu_kernels *k);
void rows_neon_fill(cpu_kernels *k);
void matmul_neon_fill(cpu_kernels *k);
void matmul_float_neon_fill(cpu_kernels *k);
#endif
#endif
