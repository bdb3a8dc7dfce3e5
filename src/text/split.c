/* split.c - cuts text into the words that byte-level BPE works on, by the pattern that a vocabulary was trained with.
 *
 * The patterns are the published ones of GPT-2, Llama 3, Qwen2 and SmolLM (GPT-2's, after every digit was cut out for
 * itself), run by PCRE2, compiled to machine code where the system allows that. Three things are spelled out so that
 * the cuts are exactly llama.cpp's, whose tables are Unicode 15.1's:
 * - white space is listed: PCRE2's \s also holds U+180E;
 * - letters and numbers that came after Unicode 14, which is what PCRE2 10.42 knows, stand beside \p{L} and \p{N};
 * - contractions name both cases: caseless matching would also take U+017F for an s.
 *
 * PCRE2 must not see broken UTF-8. A text that is not valid is rewritten first: every byte that begins no sequence
 * becomes U+FFFD, overlong sequences their character (so does llama.cpp; a value above U+10FFFF, which stops it, is
 * taken byte by byte). Surrogates stay in what the model sees, but the pattern sees U+FFFD there, of the same class and
 * length. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/vocab.h"
#include "base/status.h"
#include "text/utf8.h"
#include <assert.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define LETTER                                                                                                         \
    "\\p{L}\\x{1123F}\\x{11240}\\x{11F02}\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}\\x{1342F}\\x{13441}-\\x{13446}"    \
    "\\x{1B132}"                                                                                                       \
    "\\x{1B155}\\x{1DF25}-\\x{1DF2A}\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{2B739}\\x{2EBF0}-\\x{2EE5D}"         \
    "\\x{31350}-\\x{323AF}"
#define NUMBER "\\p{N}\\x{11F50}-\\x{11F59}\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}"
#define SPACE  "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

#define GPT2_PATTERN                                                                                                   \
    "'s|'t|'re|'ve|'m|'ll|'d| ?[" LETTER "]+| ?[" NUMBER "]+| ?[^" SPACE LETTER NUMBER "]+|[" SPACE "]+(?![^" SPACE    \
    "])|[" SPACE "]+"
#define LLAMA3_PATTERN(digits)                                                                                         \
    "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+|[" NUMBER "]" digits          \
    "| ?[^" SPACE LETTER NUMBER "]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

typedef struct kind {
    const char *name; /* tokenizer.ggml.pre */
    const char *pattern;
    bool single_digits, adds_bos, whole_words;
} kind;

static const kind kinds[] = {
    {.name = "smollm", .pattern = GPT2_PATTERN, .single_digits = true},
    {.name = "gpt-2", .pattern = GPT2_PATTERN},
    {.name = "qwen2", .pattern = LLAMA3_PATTERN("")},
    {.name = "llama-bpe", .pattern = LLAMA3_PATTERN("{1,3}"), .adds_bos = true, .whole_words = true},
};
static const char known[] = "smollm, gpt-2, qwen2, llama-bpe";

struct split {
    const kind *kind;
    pcre2_code *word, *digit; /* digit: NULL unless single_digits */
    pcre2_match_context *limits;
};

static const kind *find_kind(gguf_string name) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (name.n == strlen(kinds[i].name) && memcmp(name.bytes, kinds[i].name, name.n) == 0)
            return &kinds[i];
    return NULL;
}

static pcre2_code *compile(const char *pattern, uint32_t options) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | options, &code, &at, NULL);
    /* Without machine code (hardened systems) the interpreter does the same, slower. */
    if (compiled)
        (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    return compiled;
}

pleat_status split_open(const gguf *file, split **out, pleat_error *error) {
    gguf_string name;
    bool found = false;
    char shown[44];
    const pleat_status status = gguf_get_string(file, "tokenizer.ggml.pre", &name, &found, error);
    if (status)
        return status;
    if (!found)
        return gguf_refuse(file, "tokenizer.ggml.pre", error, "tokenizer.ggml.pre is missing; known pre-tokenizers: %s",
                           known);
    const kind *which = find_kind(name);
    if (!which)
        return gguf_refuse(file, "tokenizer.ggml.pre", error,
                           "tokenizer.ggml.pre = '%s' is not a known pre-tokenizer (%s)", vocab_shown(name, shown),
                           known);
    split *s = calloc(1, sizeof *s);
    if (s) {
        s->kind = which;
        s->word = compile(which->pattern, PCRE2_ANCHORED);
        s->digit = which->single_digits ? compile("[" NUMBER "]", 0) : NULL;
        s->limits = pcre2_match_context_create(NULL);
    }
    if (!s || !s->word || !s->limits || (which->single_digits && !s->digit)) {
        split_close(s);
        return err_set(error, PLEAT_EMEMORY, "no memory for the pre-tokenizer of %s", gguf_path(file));
    }
    /* No pattern here backtracks more than once over a run of white space, so long runs must not meet the limit. */
    pcre2_set_match_limit(s->limits, UINT32_MAX);
    *out = s;
    return PLEAT_OK;
}

void split_close(split *s) {
    if (!s)
        return;
    pcre2_code_free(s->word);
    pcre2_code_free(s->digit);
    pcre2_match_context_free(s->limits);
    free(s);
}

bool split_adds_bos(const split *s) {
    return s->kind->adds_bos;
}

bool split_whole_words(const split *s) {
    return s->kind->whole_words;
}

/* ---- broken UTF-8 ---- */

/* The value of the sequence at s by its bit pattern alone, *n_bytes read; 0xFFFD and 1 byte when there is none. */
static uint32_t read_loosely(const uint8_t *s, int n, int *n_bytes) {
    *n_bytes = 1;
    if (s[0] < 0x80)
        return s[0];
    const int whole = s[0] < 0xC0 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF8 ? 4 : 0;
    if (whole == 0 || whole > n)
        return 0xFFFD;
    uint32_t value = s[0] & (0x7F >> whole);
    for (int i = 1; i < whole; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0xFFFD;
        value = value << 6 | (s[i] & 0x3F);
    }
    if (value > 0x10FFFF)
        return 0xFFFD;
    *n_bytes = whole;
    return value;
}

static int write_character(uint32_t c, char *out) {
    const int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    if (n == 1) {
        out[0] = (char)c;
        return 1;
    }
    for (int i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)((0xF00 >> n) | c);
    return n;
}

/* What the model sees and what the pattern sees, equally long; both hold 3 * n bytes. Returns the length. */
static int rewrite(const char *text, int n, char *seen, char *matched) {
    int at = 0;
    for (int i = 0; i < n;) {
        int n_bytes;
        const uint32_t c = read_loosely((const uint8_t *)text + i, n - i, &n_bytes);
        const bool surrogate = c >= 0xD800 && c < 0xE000;
        const int written = write_character(c, seen + at);
        (void)write_character(surrogate ? 0xFFFD : c, matched + at);
        at += written;
        i += n_bytes;
    }
    return at;
}

/* ---- cutting ---- */

typedef struct cut {
    const split *s;
    pcre2_match_data *found;
    const char *seen, *matched;
    split_word word;
    void *context;
} cut;

typedef enum outcome { NOTHING, FOUND, FAILED } outcome;

/* First match in matched[at, end) of a text that begins at first; FAILED: no memory for it. */
static outcome match(const cut *c, const pcre2_code *code, int first, int at, int end, int *place, int *n) {
    const PCRE2_SPTR subject = (PCRE2_SPTR)c->matched + first;
    const PCRE2_SIZE length = (PCRE2_SIZE)(end - first), start = (PCRE2_SIZE)(at - first);
    int rc = pcre2_match(code, subject, length, start, PCRE2_NO_UTF_CHECK, c->found, c->s->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, subject, length, start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, c->found, c->s->limits);
    if (rc < 0)
        return rc == PCRE2_ERROR_NOMATCH ? NOTHING : FAILED;
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(c->found);
    *place = first + (int)span[0];
    *n = (int)(span[1] - span[0]);
    return FOUND;
}

/* A stretch between digits is a text of its own: what looks ahead stops at its end. */
static bool cut_stretch(const cut *c, int first, int end) {
    for (int at = first; at < end;) {
        int place = at, n = 0;
        const outcome got = match(c, c->s->word, first, at, end, &place, &n);
        if (got == FAILED)
            return false;
        assert(got == FOUND && place == at && n > 0); /* every character begins one of the alternatives */
        if (!c->word(c->context, c->seen + at, n))
            return false;
        at += n;
    }
    return true;
}

static bool cut_all(const cut *c, int n) {
    int at = 0, place = 0, n_digit = 0;
    while (c->s->digit && at < n) {
        const outcome got = match(c, c->s->digit, 0, at, n, &place, &n_digit);
        if (got == FAILED)
            return false;
        if (got == NOTHING)
            break;
        if (!cut_stretch(c, at, place) || !c->word(c->context, c->seen + place, n_digit))
            return false;
        at = place + n_digit;
    }
    return cut_stretch(c, at, n);
}

bool split_text(const split *s, const char *text, int n, split_word word, void *context) {
    cut c = {.s = s, .seen = text, .matched = text, .word = word, .context = context};
    char *rewritten = NULL;
    if (!utf8_valid(text, (size_t)n)) {
        rewritten = malloc(6 * (size_t)n + 1);
        if (!rewritten)
            return false;
        char *matched = rewritten + 3 * (size_t)n;
        n = rewrite(text, n, rewritten, matched);
        c.seen = rewritten;
        c.matched = matched;
    }
    c.found = pcre2_match_data_create(1, NULL);
    const bool ok = c.found && cut_all(&c, n);
    pcre2_match_data_free(c.found);
    free(rewritten);
    return ok;
}
