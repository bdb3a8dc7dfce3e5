/* metrics_text.c - see metrics_text.h. The rules are CPython 3.11's (Objects/unicodeobject.c, Modules/_sre), the
 * categories utf8proc's. */
#include "measure/metrics_text.h"
#include <limits.h>
#include <stdlib.h>
#include <utf8proc.h>

bool codes_read(const char *bytes, size_t n_bytes, codes *out) {
    if (n_bytes > INT_MAX / 2)
        return false;
    int32_t *code = malloc((n_bytes + 1) * sizeof(*code));
    int n = 0;
    if (!code)
        return false;
    while (n_bytes) {
        utf8proc_int32_t c;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)bytes, (utf8proc_ssize_t)n_bytes, &c);
        code[n++] = used > 0 ? c : 0xFFFD;
        used = used > 0 ? used : 1;
        bytes += used;
        n_bytes -= (size_t)used;
    }
    *out = (codes){code, n};
    return true;
}

void codes_free(codes *c) {
    free(c->code);
    *c = (codes){0};
}

bool code_is_space(int32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool code_is_digit(int32_t c) {
    return utf8proc_category(c) == UTF8PROC_CATEGORY_ND;
}

bool code_is_word(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
           (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) || c == '_';
}

/* ---- lower case ---- */

/* Unicode's Case_Ignorable: marks, modifiers, formats, and some signs that stand inside words. */
static bool is_ignorable(int32_t c) {
    static const int32_t inside[] = {0x27,   0x2e,   0x3a,   0xb7,   0x387,  0x55f,  0x5f4,  0x2018, 0x2019,
                                     0x2024, 0x2027, 0xfe13, 0xfe52, 0xfe55, 0xff07, 0xff0e, 0xff1a};
    for (size_t i = 0; i < sizeof(inside) / sizeof(*inside); i++)
        if (inside[i] == c)
            return true;
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF ||
           k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK;
}

/* Unicode's Cased without what is ignorable: letters with case, ordinals, roman numerals, circled and squared letters.
 */
static bool is_cased(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LT) || c == 0xaa || c == 0xba ||
           (c >= 0x2160 && c <= 0x217f) || (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

/* The sigma at i ends a word: a cased letter stands before it and none after it, ignorable ones skipped. */
static bool is_final(const codes *c, int i) {
    int k = i - 1;
    while (k >= 0 && is_ignorable(c->code[k]))
        k--;
    if (k < 0 || !is_cased(c->code[k]))
        return false;
    k = i + 1;
    while (k < c->n && is_ignorable(c->code[k]))
        k++;
    return k == c->n || !is_cased(c->code[k]);
}

bool codes_lower(const codes *in, codes *out) {
    int32_t *code = malloc((2 * (size_t)in->n + 1) * sizeof(*code));
    int n = 0;
    if (!code)
        return false;
    for (int i = 0; i < in->n; i++) {
        int32_t c = in->code[i];
        if (c == 0x3a3)
            code[n++] = is_final(in, i) ? 0x3c2 : 0x3c3;
        else if (c < 0x80)
            code[n++] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        else if (c == 0x130) {
            code[n++] = 'i';
            code[n++] = 0x307;
        } else
            code[n++] = utf8proc_tolower(c);
    }
    *out = (codes){code, n};
    return true;
}

/* ---- words ---- */

bool codes_next_word(const codes *c, int *at, int *from) {
    int i = *at;
    while (i < c->n && code_is_space(c->code[i]))
        i++;
    *from = i;
    while (i < c->n && !code_is_space(c->code[i]))
        i++;
    *at = i;
    return i > *from;
}

int codes_intern(intern *words, const codes *c, int from, int to) {
    return intern_add(words, c->code + from, (size_t)(to - from) * sizeof(*c->code), NULL);
}
