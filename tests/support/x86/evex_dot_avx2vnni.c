/* evex_dot_avx2vnni.c - dot_avx2vnni.c once more; see evex.h. */
#define VNNI_EVEX
#define dot_avx2vnni_fill evex_dot_fill
#include "cpu/x86/dot_avx2vnni.c"
