/* Half precision, by the C library alone: what compilers bring for it comes with a memcpy of theirs, byte by byte. */
#include <math.h>

#include "server.h"

float half_to_float(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 1023;
    float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                 : exponent     ? ldexpf((float)(1024 + fraction), exponent - 25)
                                : (float)fraction * 0x1p-24f;
    return half & 0x8000 ? -size : size;
}

/* To the nearest, ties to even; what is too large becomes infinite. A fraction that is rounded up to 2 carries. */
uint16_t half_of(double value) {
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double size = fabs(value);
    int exponent;
    if (isnan(value)) return 0x7e00;
    if (size >= 65520) return sign | 0x7c00;
    if (size < 0x1p-14) return (uint16_t)(sign | (uint16_t)rint(size * 0x1p24));
    (void)frexp(size, &exponent);
    return (uint16_t)(sign | (((exponent + 14) << 10) + (int)rint(ldexp(size, 11 - exponent)) - 1024));
}
