/* f16.h - IEEE half and bfloat16 to float and back, portable, nearest even; subnormals, infinities and NaN included. */
#ifndef BASE_F16_H
#define BASE_F16_H
#include <stdint.h>
typedef uint16_t f16;
float f16_to_f32(f16 h);
f16 f16_from_f32(float x);
float bf16_to_f32(uint16_t h);
#endif
