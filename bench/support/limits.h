/* limits.h - what this machine can do at best: bytes read, multiplications and additions. Every other figure is a share
 * of these. */
#ifndef BENCH_LIMITS_H
#define BENCH_LIMITS_H
#include "base/threads.h"
#include "cpu/detect.h"
#include "support/timing.h"

/* Arithmetic of one core, operations a second (a multiplication and an addition are two); 0: the level has no such
 * instruction. Loops of twelve independent accumulators and nothing else. */
double limits_f32(cpu_level level);
double limits_int8(cpu_level level); /* u8 x s8 into 32 bits, exact for all codes */
double limits_int4(cpu_level level); /* u4 x s8; without VNNI 16 bits hold a few of their products, which is faster */
double limits_bf16(cpu_level level); /* pairs into float: avx512 where AVX512_BF16 is there, amx where AMX-BF16 is */
/* Whether this architecture has such loops; where it has none, all four are 0 whatever it can do. */
bool limits_arithmetic(void);
/* The instructions of limits_int8 and limits_int4. */
const char *limits_int8_name(cpu_level level);
const char *limits_int4_name(cpu_level level);

/* Bytes a second that all threads of the pool together read once, in order, from n_bytes at data (each its own part,
 * 256 KB at a time, with prefetch): memory when n_bytes is far beyond the last cache. */
double limits_read(threads *pool, const void *data, size_t n_bytes);
/* The same by one thread from 256 KB that stay in L2. */
double limits_read_cached(void);
#endif
