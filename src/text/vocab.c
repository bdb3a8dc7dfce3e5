/* vocab.c - reads and checks the lists of a vocabulary: texts, types, scores, special ids; decodes every text once.
 *
 * Owns everything about single tokens; merges and patterns are elsewhere. Nothing in a file is trusted: lists shorter
 * than the vocabulary, types and ids out of range, NaN scores, byte tokens that name no byte and two tokens with one
 * text are refused. Texts stay in the mapping; the table from text to id is open addressing with linear probing, at
 * most half full.
 *
 * Where a file is silent the defaults are llama.cpp's (SPM: BOS 1, EOS 2, unknown 0, BOS and a space are added;
 * byte-level BPE: nothing is added, save BOS by llama-bpe), except that a byte-level file that names no BOS or EOS has
 * none. Like there, some tokens are known by their text: those that end an answer, and fill-in-the-middle ones; they
 * count as control tokens when text is parsed, whatever type the file gives them. */
#include "text/vocab.h"
#include "base/status.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- small things ---- */

uint64_t vocab_hash(const void *bytes, size_t n) {
    const uint8_t *s = bytes;
    uint64_t h = 0x9E3779B97F4A7C15u ^ n;
    for (; n >= 8; s += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, s, 8);
        h = (h ^ word) * 0xFF51AFD7ED558CCDu;
        h ^= h >> 32;
    }
    for (; n > 0; s++, n--)
        h = (h ^ *s) * 0x100000001B3u;
    h ^= h >> 29;
    h *= 0xC4CEB9FE1A85EC53u;
    return h ^ h >> 32;
}

const char *vocab_shown(gguf_string s, char *out) {
    const size_t n = s.n < 40 ? s.n : 40;
    for (size_t i = 0; i < n; i++)
        out[i] = isprint((unsigned char)s.bytes[i]) ? s.bytes[i] : '?';
    memcpy(out + n, s.n > n ? "..." : "", s.n > n ? 4 : 1);
    return out;
}

/* Bytes that are printable in Latin-1 stand for themselves, the 68 others are the characters from U+0100 on, in order.
 */
static int byte_character(uint8_t byte) {
    if ((byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD))
        return byte;
    if (byte <= 0x20)
        return 0x100 + byte;
    return byte == 0xAD ? 0x143 : 0x121 + (byte - 0x7F);
}

int vocab_byte_char(uint8_t byte, char *out) {
    const int c = byte_character(byte);
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3F));
    return 2;
}

/* The table entry of a text: its own, or the free one where it would go. */
static uint32_t probe(const vocab *v, const char *text, size_t n) {
    uint32_t i = (uint32_t)vocab_hash(text, n) & v->mask;
    while (v->slot[i]) {
        const gguf_string s = v->text[v->slot[i] - 1];
        if (s.n == n && memcmp(s.bytes, text, n) == 0)
            break;
        i = (i + 1) & v->mask;
    }
    return i;
}

int32_t vocab_find(const vocab *v, const char *text, size_t n) {
    if (n == 0 || n > v->max_text_bytes)
        return -1;
    return (int32_t)v->slot[probe(v, text, n)] - 1;
}

bool vocab_ordinary(const vocab *v, int32_t id) {
    return v->type[id] != VOCAB_CONTROL && v->type[id] != VOCAB_UNKNOWN;
}

int32_t vocab_find_ordinary(const vocab *v, const char *text, size_t n) {
    const int32_t id = vocab_find(v, text, n);
    return id >= 0 && vocab_ordinary(v, id) ? id : -1;
}

/* ---- the lists ---- */

/* The value 0..255 of "<0xXX>"; -1: not of this form. */
static int byte_of(gguf_string s) {
    if (s.n != 6 || memcmp(s.bytes, "<0x", 3) != 0 || s.bytes[5] != '>')
        return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        const char c = s.bytes[i];
        if (!isxdigit((unsigned char)c))
            return -1;
        value = value * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return value;
}

static pleat_status no_memory(const gguf *file, pleat_error *error) {
    return err_set(error, PLEAT_EMEMORY, "no memory for the vocabulary of %s", gguf_path(file));
}

static pleat_status read_texts(const gguf *file, vocab *v, pleat_error *error) {
    gguf_array list;
    bool found = false;
    const pleat_status status = gguf_get_array(file, "tokenizer.ggml.tokens", &list, &found, error);
    if (status)
        return status;
    if (!found || list.type != GGUF_STRING || list.n < 1 || list.n > INT32_MAX / 4)
        return gguf_refuse(file, "tokenizer.ggml.tokens", error,
                           "tokenizer.ggml.tokens is not a list of 1 to %d strings", INT32_MAX / 4);
    v->n = (int)list.n;
    v->mask = 15;
    while (v->mask + 1 < 2 * (uint32_t)v->n)
        v->mask = 2 * v->mask + 1;
    v->text = malloc((size_t)v->n * sizeof *v->text);
    v->type = malloc((size_t)v->n);
    v->flags = calloc((size_t)v->n, 1);
    v->slot = calloc((size_t)v->mask + 1, sizeof *v->slot);
    if (!v->text || !v->type || !v->flags || !v->slot)
        return no_memory(file, error);
    gguf_array_strings(&list, v->text);
    for (int id = 0; id < v->n; id++) {
        const gguf_string s = v->text[id];
        if (s.n == 0)
            continue; /* stands for no text; some converters pad a vocabulary so */
        if (s.n > INT32_MAX / 4)
            return gguf_refuse(file, "tokenizer.ggml.tokens", error, "tokenizer.ggml.tokens[%d] has %zu bytes", id,
                               s.n);
        const uint32_t i = probe(v, s.bytes, s.n);
        char shown[44];
        if (v->slot[i])
            return gguf_refuse(file, "tokenizer.ggml.tokens", error, "tokenizer.ggml.tokens[%u] and [%d] are both '%s'",
                               (unsigned)v->slot[i] - 1, id, vocab_shown(s, shown));
        v->slot[i] = (uint32_t)id + 1;
        v->max_text_bytes = s.n > v->max_text_bytes ? s.n : v->max_text_bytes;
    }
    return PLEAT_OK;
}

/* A list beside the texts; *found false: not there. PLEAT_EINPUT: too short, or not of numbers as wanted. */
static pleat_status read_numbers(const gguf *file, const char *key, const vocab *v, bool floats, gguf_array *list,
                                 bool *found, pleat_error *error) {
    const pleat_status status = gguf_get_array(file, key, list, found, error);
    if (status || !*found)
        return status;
    const bool is_float = list->type == GGUF_F32 || list->type == GGUF_F64;
    if (list->type == GGUF_STRING || list->type == GGUF_BOOL || (is_float && !floats))
        return gguf_refuse(file, key, error, "%s is not a list of %s", key, floats ? "numbers" : "integers");
    if (list->n < v->n)
        return gguf_refuse(file, key, error, "%s has %lld entries for %d tokens", key, (long long)list->n, v->n);
    return PLEAT_OK;
}

static pleat_status read_types(const gguf *file, vocab *v, pleat_error *error) {
    gguf_array list;
    bool found = false;
    const pleat_status status = read_numbers(file, "tokenizer.ggml.token_type", v, false, &list, &found, error);
    if (status)
        return status;
    char shown[44];
    for (int id = 0; id < v->n; id++) {
        const int64_t type = found ? gguf_array_int(&list, id) : VOCAB_NORMAL;
        if (type < 0 || type >= VOCAB_TYPE_COUNT)
            return gguf_refuse(file, "tokenizer.ggml.token_type", error,
                               "tokenizer.ggml.token_type[%d] = %lld is outside 0 to %d", id, (long long)type,
                               VOCAB_TYPE_COUNT - 1);
        if (type == VOCAB_BYTE && byte_of(v->text[id]) < 0)
            return gguf_refuse(file, "tokenizer.ggml.tokens", error,
                               "tokenizer.ggml.tokens[%d] = '%s' is of type byte but not <0x00> to <0xFF>", id,
                               vocab_shown(v->text[id], shown));
        v->type[id] = (uint8_t)type;
        if (type == VOCAB_CONTROL || type == VOCAB_UNKNOWN)
            v->flags[id] = VOCAB_PARSED | VOCAB_SILENT;
        else if (type == VOCAB_USER)
            v->flags[id] = VOCAB_PARSED;
    }
    return PLEAT_OK;
}

static pleat_status read_scores(const gguf *file, vocab *v, pleat_error *error) {
    gguf_array list;
    bool found = false;
    const pleat_status status = read_numbers(file, "tokenizer.ggml.scores", v, true, &list, &found, error);
    if (status)
        return status;
    if (!found && !v->spm)
        return PLEAT_OK;
    if (!found)
        return gguf_refuse(file, "tokenizer.ggml.scores", error, "tokenizer.ggml.scores is missing");
    if (v->spm && !(v->score = malloc((size_t)v->n * sizeof *v->score)))
        return no_memory(file, error);
    for (int id = 0; id < v->n; id++) {
        const float score = (float)gguf_array_float(&list, id);
        if (isnan(score))
            return gguf_refuse(file, "tokenizer.ggml.scores", error, "tokenizer.ggml.scores[%d] is not a number", id);
        if (v->score)
            v->score[id] = score;
    }
    return PLEAT_OK;
}

/* ---- special ids ---- */

static pleat_status read_id(const gguf *file, const char *key, const vocab *v, int32_t *id, pleat_error *error) {
    int64_t value = 0;
    bool found = false;
    const pleat_status status = gguf_get_int(file, key, 0, v->n - 1, &value, &found, error);
    if (!status && found)
        *id = (int32_t)value;
    return status;
}

static void mark_text(vocab *v, const char *text, unsigned flags) {
    const int32_t id = vocab_find(v, text, strlen(text));
    if (id >= 0)
        v->flags[id] |= (uint8_t)flags;
}

static const char *const ends[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    NULL,
};
static const char *const fim_prefixes[] = {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", NULL};
static const char *const fim_suffixes[] = {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", NULL};
static const char *const fim_middles[] = {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", NULL};
static const char *const fim_pads[] = {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", NULL};
static const char *const fim_repos[] = {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", NULL};
static const char *const fim_files[] = {"<|file_sep|>", NULL};

/* Tokens that a file names by id, or else are known by one of some texts. */
typedef struct role {
    const char *key;          /* NULL: by text alone */
    const char *const *texts; /* NULL: by id alone */
    bool ends;
} role;
static const role roles[] = {
    {"tokenizer.ggml.eos_token_id", NULL, true},
    {"tokenizer.ggml.eot_token_id", NULL, true},
    {"tokenizer.ggml.eom_token_id", NULL, true},
    {NULL, ends, true},
    {"tokenizer.ggml.fim_pre_token_id", fim_prefixes, false},
    {"tokenizer.ggml.fim_suf_token_id", fim_suffixes, false},
    {"tokenizer.ggml.fim_mid_token_id", fim_middles, false},
    {"tokenizer.ggml.fim_pad_token_id", fim_pads, true},
    {"tokenizer.ggml.fim_rep_token_id", fim_repos, true},
    {"tokenizer.ggml.fim_sep_token_id", fim_files, true},
};

static pleat_status mark_roles(const gguf *file, vocab *v, pleat_error *error) {
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        const role *r = &roles[i];
        int32_t id = -1;
        const pleat_status status = r->key ? read_id(file, r->key, v, &id, error) : PLEAT_OK;
        if (status)
            return status;
        /* An id says what ends an answer; only a text makes a token a control token that the file did not call one. */
        if (id >= 0) {
            v->flags[id] |= r->ends ? VOCAB_ENDS : 0;
            continue;
        }
        for (const char *const *text = r->texts; text && *text; text++)
            mark_text(v, *text, VOCAB_PARSED | VOCAB_SILENT | (r->ends ? VOCAB_ENDS : 0u));
    }
    if (v->eos >= 0)
        v->flags[v->eos] |= VOCAB_ENDS;
    return PLEAT_OK;
}

/* Phi-3 under the llama architecture: its special tokens, but three, swallow the white space after them. */
static pleat_status mark_stripping(const gguf *file, vocab *v, pleat_error *error) {
    gguf_string name = {0};
    bool found = false;
    const pleat_status status = gguf_get_string(file, "general.name", &name, &found, error);
    if (status || !found)
        return status;
    bool phi3 = false;
    for (size_t i = 0; i + 4 <= name.n; i++)
        phi3 = phi3 || strncasecmp(name.bytes + i, "phi3", 4) == 0 ||
               (i + 5 <= name.n && strncasecmp(name.bytes + i, "phi-3", 5) == 0);
    if (!phi3)
        return PLEAT_OK;
    for (int id = 0; id < v->n; id++)
        if (v->flags[id] & VOCAB_PARSED)
            v->flags[id] |= VOCAB_RSTRIP;
    static const char *const kept[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        const int32_t id = vocab_find(v, kept[i], strlen(kept[i]));
        if (id >= 0)
            v->flags[id] &= (uint8_t)~VOCAB_RSTRIP;
    }
    return PLEAT_OK;
}

static pleat_status read_additions(const gguf *file, vocab *v, pleat_error *error) {
    bool found;
    pleat_status status = gguf_get_bool(file, "tokenizer.ggml.add_bos_token", &v->add_bos, &found, error);
    if (!status)
        status = gguf_get_bool(file, "tokenizer.ggml.add_eos_token", &v->add_eos, &found, error);
    if (!status && v->spm)
        status = gguf_get_bool(file, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix, &found, error);
    if (status)
        return status;
    if ((v->add_bos && v->bos < 0) || (v->add_eos && v->eos < 0)) {
        const char *what = v->add_bos && v->bos < 0 ? "bos" : "eos";
        return gguf_refuse(file, what[0] == 'b' ? "tokenizer.ggml.add_bos_token" : "tokenizer.ggml.add_eos_token",
                           error, "tokenizer.ggml.add_%s_token asks for a token, but there is no %s_token_id", what,
                           what);
    }
    return PLEAT_OK;
}

static pleat_status read_specials(const gguf *file, vocab *v, pleat_error *error) {
    int32_t unknown = v->spm ? 0 : -1;
    v->bos = v->spm && v->n > 1 ? 1 : -1;
    v->eos = v->spm && v->n > 2 ? 2 : -1;
    v->add_bos = v->spm;
    v->add_space_prefix = v->spm;
    pleat_status status = read_id(file, "tokenizer.ggml.bos_token_id", v, &v->bos, error);
    if (!status)
        status = read_id(file, "tokenizer.ggml.eos_token_id", v, &v->eos, error);
    if (!status)
        status = read_id(file, "tokenizer.ggml.unknown_token_id", v, &unknown, error);
    if (!status)
        status = mark_roles(file, v, error);
    if (!status)
        status = mark_stripping(file, v, error);
    if (!status)
        status = read_additions(file, v, error);
    for (int byte = 0; byte < 256 && !status; byte++) {
        char text[8];
        if (v->spm) {
            static const char hex[] = "0123456789ABCDEF";
            const char spelled[6] = {'<', '0', 'x', hex[byte >> 4], hex[byte & 15], '>'};
            const char alone = (char)byte;
            v->byte_id[byte] = vocab_find(v, spelled, 6);
            if (v->byte_id[byte] < 0)
                v->byte_id[byte] = vocab_find_ordinary(v, &alone, 1);
            if (v->byte_id[byte] < 0)
                v->byte_id[byte] = unknown;
        } else {
            v->byte_id[byte] = vocab_find_ordinary(v, text, (size_t)vocab_byte_char((uint8_t)byte, text));
        }
    }
    return status;
}

/* ---- decoded texts ---- */

static size_t decode_spm(gguf_string s, char *out) {
    size_t at = 0;
    for (size_t i = 0; i < s.n;) {
        if (i + 3 <= s.n && memcmp(s.bytes + i, "\xE2\x96\x81", 3) == 0) {
            out[at++] = ' ';
            i += 3;
        } else {
            out[at++] = s.bytes[i++];
        }
    }
    return at;
}

/* Characters that stand for no byte are kept as they are. */
static size_t decode_bpe(gguf_string s, const int16_t *byte_by_character, char *out) {
    size_t at = 0;
    for (size_t i = 0; i < s.n; i++) {
        const uint8_t a = (uint8_t)s.bytes[i];
        const bool two = a >= 0xC2 && a <= 0xC5 && i + 1 < s.n && ((uint8_t)s.bytes[i + 1] & 0xC0) == 0x80;
        const int c = two ? (a & 0x1F) << 6 | ((uint8_t)s.bytes[i + 1] & 0x3F) : a < 0x80 ? a : 0;
        if (c < 0x144 && byte_by_character[c] >= 0) {
            out[at++] = (char)byte_by_character[c];
            i += two;
        } else {
            out[at++] = s.bytes[i];
        }
    }
    return at;
}

static pleat_status decode_texts(const gguf *file, vocab *v, pleat_error *error) {
    int16_t byte_by_character[0x144];
    for (int c = 0; c < 0x144; c++)
        byte_by_character[c] = -1;
    for (int byte = 0; byte < 256; byte++)
        byte_by_character[byte_character((uint8_t)byte)] = (int16_t)byte;
    size_t total = 1;
    for (int id = 0; id < v->n; id++)
        total += v->text[id].n;
    v->bytes = malloc(total);
    v->start = malloc(((size_t)v->n + 1) * sizeof *v->start);
    if (!v->bytes || !v->start)
        return no_memory(file, error);
    size_t at = 0;
    for (int id = 0; id < v->n; id++) {
        const gguf_string s = v->text[id];
        v->start[id] = at;
        if (v->flags[id] & (VOCAB_SILENT | VOCAB_PARSED)) {
            memcpy(v->bytes + at, s.bytes, s.n);
            at += s.n;
        } else if (v->type[id] == VOCAB_BYTE) {
            v->bytes[at++] = (char)byte_of(s);
        } else if (v->type[id] == VOCAB_NORMAL) {
            at += v->spm ? decode_spm(s, v->bytes + at) : decode_bpe(s, byte_by_character, v->bytes + at);
        }
    }
    v->start[v->n] = at;
    return PLEAT_OK;
}

/* ---- opening ---- */

static pleat_status read_model(const gguf *file, vocab *v, pleat_error *error) {
    gguf_string name;
    bool found = false;
    char shown[44];
    const pleat_status status = gguf_get_string(file, "tokenizer.ggml.model", &name, &found, error);
    if (status)
        return status;
    if (!found)
        return gguf_refuse(file, "tokenizer.ggml.model", error, "tokenizer.ggml.model is missing");
    v->spm = name.n == 5 && memcmp(name.bytes, "llama", 5) == 0;
    if (!v->spm && !(name.n == 4 && memcmp(name.bytes, "gpt2", 4) == 0))
        return gguf_refuse(file, "tokenizer.ggml.model", error,
                           "tokenizer.ggml.model = '%s' is not a known tokenizer (llama, gpt2)",
                           vocab_shown(name, shown));
    return PLEAT_OK;
}

pleat_status vocab_open(const gguf *file, vocab *v, pleat_error *error) {
    *v = (vocab){0};
    pleat_status (*const steps[])(const gguf *, vocab *, pleat_error *) = {
        read_model, read_texts, read_types, read_scores, read_specials, decode_texts,
    };
    pleat_status status = PLEAT_OK;
    for (size_t i = 0; i < sizeof steps / sizeof *steps && !status; i++)
        status = steps[i](file, v, error);
    if (status)
        vocab_close(v);
    return status;
}

void vocab_close(vocab *v) {
    free(v->text);
    free(v->score);
    free(v->type);
    free(v->flags);
    free(v->slot);
    free(v->bytes);
    free(v->start);
    *v = (vocab){0};
}
