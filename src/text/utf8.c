/* utf8.c - whole characters out of a stream of bytes.
 *
 * Everything here rests on one function, `measure`: how far the bytes at a place follow the table of well-formed
 * sequences (Unicode Standard, section 3.9, table 3-7), and whether they end as a whole character. The second byte
 * carries all the odd limits (overlong forms after E0 and F0, surrogates after ED, the end of the code space after F4):
 *
 *   lead      second     third, fourth
 *   00..7F
 *   C2..DF    80..BF
 *   E0        A0..BF     80..BF
 *   E1..EF    80..BF     80..BF          (ED: 80..9F)
 *   F0        90..BF     80..BF 80..BF
 *   F1..F3    80..BF     80..BF 80..BF
 *   F4        80..8F     80..BF 80..BF
 *
 * A lead byte with as many following bytes as fit the table is a "maximal subpart": it is what utf8_repair replaces by
 * one U+FFFD and, where the text just ends there, what utf8_complete holds back. */
#include "text/utf8.h"
#include <string.h>

/* Bytes of the longest well-formed sequence or beginning of one at s (0 when the first byte can begin none); *missing
 * is how many further bytes would make it a character (0: it is one). */
static size_t measure(const unsigned char *s, size_t n, size_t *missing) {
    const unsigned char lead = s[0];
    *missing = 0;
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    const size_t whole = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    size_t have = 1;
    while (have < whole && have < n) {
        if (s[have] < (have == 1 ? low : 0x80) || s[have] > (have == 1 ? high : 0xBF))
            break;
        have++;
    }
    *missing = whole - have;
    return have;
}

size_t utf8_complete(const char *bytes, size_t n) {
    const unsigned char *s = (const unsigned char *)bytes;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const unsigned char c = s[n - back];
        if (c >= 0x80 && c < 0xC0)
            continue;
        size_t missing;
        /* A beginning of a character that reaches the end of the bytes; one that a wrong byte broke off is shown. */
        if (measure(s + n - back, back, &missing) == back && missing > 0)
            return n - back;
        return n;
    }
    return n;
}

bool utf8_valid(const char *bytes, size_t n) {
    const unsigned char *s = (const unsigned char *)bytes;
    for (size_t i = 0; i < n;) {
        size_t missing;
        const size_t have = measure(s + i, n - i, &missing);
        if (have == 0 || missing > 0)
            return false;
        i += have;
    }
    return true;
}

size_t utf8_repair(const char *bytes, size_t n, char *out) {
    const unsigned char *s = (const unsigned char *)bytes;
    size_t written = 0;
    for (size_t i = 0; i < n;) {
        size_t missing;
        const size_t have = measure(s + i, n - i, &missing);
        if (have > 0 && missing == 0) {
            memcpy(out + written, bytes + i, have);
            written += have;
        } else {
            memcpy(out + written, "\xEF\xBF\xBD", 3);
            written += 3;
        }
        i += have ? have : 1;
    }
    return written;
}
