/* inline.h - functions that are part of the kernel that calls them: what is constant there is constant in them too. */
#ifndef CPU_INLINE_H
#define CPU_INLINE_H
#define INLINE static inline __attribute__((always_inline))
#endif
