/* test_text.c - tokenizers on hand-made vocabularies: cuts as the published patterns make them, merges by rank and by
 * score, special tokens, odd bytes, long runs, bad lists. Ids of real vocabularies: test_golden.c. */
#include "text/tokenizer.h"
#include "text/vocab.h"
#include "base/rng.h"
#include "support/env.h"
#include "support/gguf_writer.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

/* ---- vocabularies ---- */

typedef struct extra {
    const char *text; /* NULL: the list's end */
    int type;
    float score;
} extra;

static const char *vocab_path(void) {
    return env_temp("vocab.gguf");
}

/* Byte-level: the 256 bytes, then extras (written as the vocabulary spells them) from id 256 on. */
static gguf_writer *byte_vocab(const char *pre, const extra *extras, const char *const *merges) {
    static char piece[256][4];
    const char *tokens[320];
    int32_t types[320];
    uint64_t n = 0, n_merges = 0;
    for (; n < 256; n++) {
        piece[n][vocab_byte_char((uint8_t)n, piece[n])] = 0;
        tokens[n] = piece[n];
        types[n] = VOCAB_NORMAL;
    }
    for (; extras && extras->text; extras++) {
        tokens[n] = extras->text;
        types[n++] = extras->type;
    }
    while (merges && merges[n_merges])
        n_merges++;
    gguf_writer *w = gguf_writer_open(3);
    gguf_writer_string(w, "tokenizer.ggml.model", "gpt2");
    if (pre)
        gguf_writer_string(w, "tokenizer.ggml.pre", pre);
    gguf_writer_strings(w, "tokenizer.ggml.tokens", tokens, n);
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32, types, n);
    gguf_writer_strings(w, "tokenizer.ggml.merges", merges, n_merges);
    return w;
}

/* SPM: <unk> <s> </s>, 256 byte tokens unless left out, then extras from id 259 (3) on. */
static gguf_writer *spm_vocab(bool with_bytes, const extra *extras) {
    static char piece[256][8];
    const char *tokens[400] = {"<unk>", "<s>", "</s>"};
    int32_t types[400] = {VOCAB_UNKNOWN, VOCAB_CONTROL, VOCAB_CONTROL};
    float scores[400] = {0};
    uint64_t n = 3;
    for (int byte = 0; with_bytes && byte < 256; byte++, n++) {
        snprintf(piece[byte], sizeof(piece[byte]), "<0x%02X>", byte);
        tokens[n] = piece[byte];
        types[n] = VOCAB_BYTE;
    }
    for (; extras->text; extras++, n++) {
        tokens[n] = extras->text;
        types[n] = extras->type;
        scores[n] = extras->score;
    }
    gguf_writer *w = gguf_writer_open(3);
    gguf_writer_string(w, "tokenizer.ggml.model", "llama");
    gguf_writer_strings(w, "tokenizer.ggml.tokens", tokens, n);
    gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_F32, scores, n);
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32, types, n);
    return w;
}

typedef struct bed {
    gguf *file;
    tokenizer *tok;
} bed;

static bed open_bed(gguf_writer *w) {
    bed b;
    pleat_error error;
    assert_true(gguf_writer_save(w, vocab_path()));
    gguf_writer_close(w);
    if (gguf_open(vocab_path(), &b.file, &error) || tokenizer_open(b.file, &b.tok, &error))
        fail_msg("%s", error.text);
    unlink(vocab_path());
    return b;
}

static void close_bed(bed *b) {
    tokenizer_close(b->tok);
    gguf_close(b->file);
}

enum { END = -99 };

/* The ids of a text are those that follow, up to END. */
static void expect(const bed *b, tokenizer_mode mode, const char *text, size_t n, ...) {
    int32_t *ids = NULL;
    int n_ids, k = 0;
    va_list list;
    assert_int_equal(tokenizer_encode(b->tok, text, n, mode, &ids, &n_ids, NULL), PLEAT_OK);
    assert_non_null(ids);
    va_start(list, n);
    for (int want; (want = va_arg(list, int)) != END; k++)
        if (k >= n_ids || ids[k] != want)
            fail_msg("\"%.*s\": id %d of %d is %d, not %d", (int)n, text, k, n_ids, k < n_ids ? (int)ids[k] : -1, want);
    va_end(list);
    if (k != n_ids)
        fail_msg("\"%.*s\": %d ids, not %d", (int)n, text, n_ids, k);
    free(ids);
}
#define PLAIN(b, text, ...)   expect(b, TOKENIZER_PLAIN, text, sizeof(text) - 1, ##__VA_ARGS__, END)
#define SPECIAL(b, text, ...) expect(b, TOKENIZER_SPECIAL, text, sizeof(text) - 1, ##__VA_ARGS__, END)

/* ---- words ---- */

typedef struct words {
    const int *want;
    int n_want, n, at;
    bool same;
} words;

static bool take_word(void *context, const char *word, int n) {
    words *w = context;
    (void)word;
    w->same = w->same && w->n < w->n_want && w->want[w->n] == n;
    w->n++;
    return true;
}

static split *open_split(const char *pre, gguf **file) {
    split *s;
    gguf_writer *w = gguf_writer_open(3);
    gguf_writer_string(w, "tokenizer.ggml.pre", pre);
    assert_true(gguf_writer_save(w, vocab_path()));
    gguf_writer_close(w);
    assert_int_equal(gguf_open(vocab_path(), file, NULL), PLEAT_OK);
    unlink(vocab_path());
    assert_int_equal(split_open(*file, &s, NULL), PLEAT_OK);
    return s;
}

static void words_are_cut_as_the_published_patterns_cut(void **state) {
    (void)state;
    static const char *const names[] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    char *golden = env_data("golden/words.txt", NULL), *text = malloc(1 << 12);
    gguf *file[4];
    split *s[4];
    int n_text = 0, n_checked = 0;
    for (int i = 0; i < 4; i++)
        s[i] = open_split(names[i], &file[i]);
    for (char *line = golden; *line; line = strchr(line, '\n') + 1) {
        unsigned byte;
        if (!strncmp(line, "text ", 5)) {
            n_text = 0;
            for (char *hex = line + 5; *hex != '\n' && sscanf(hex, "%2x", &byte) == 1; hex += 2)
                text[n_text++] = (char)byte;
            continue;
        }
        for (int i = 0; i < 4; i++) {
            size_t n_name = strlen(names[i]);
            if (strncmp(line, names[i], n_name) || (line[n_name] != ' ' && line[n_name] != '\n'))
                continue;
            int want[400], n_want = 0;
            for (char *at = line + n_name, *end; *at == ' '; at = end)
                want[n_want++] = (int)strtol(at, &end, 10);
            words w = {.want = want, .n_want = n_want, .same = true};
            assert_true(split_text(s[i], text, n_text, take_word, &w));
            if (!w.same || w.n != n_want)
                fail_msg("%s cuts \"%.*s\" in %d words, not %d, or elsewhere", names[i], n_text, text, w.n, n_want);
            n_checked++;
        }
    }
    assert_true(n_checked >= 4 * 30);
    for (int i = 0; i < 4; i++) {
        split_close(s[i]);
        gguf_close(file[i]);
    }
    free(text);
    free(golden);
}

/* ---- refused ---- */

static void refused(gguf_writer *w, const char *word) {
    gguf *file;
    tokenizer *tok = NULL;
    pleat_error error = {""};
    assert_true(gguf_writer_save(w, vocab_path()));
    gguf_writer_close(w);
    assert_int_equal(gguf_open(vocab_path(), &file, NULL), PLEAT_OK);
    if (tokenizer_open(file, &tok, &error) != PLEAT_EINPUT || tok)
        fail_msg("%s: was not refused", word);
    if (!strstr(error.text, word) || !strstr(error.text, vocab_path()) || strchr(error.text, '\n'))
        fail_msg("\"%s\" is not in: %s", word, error.text);
    gguf_close(file);
    unlink(vocab_path());
}

static void unknown_tokenizers_are_refused_by_name(void **state) {
    (void)state;
    static const char *const unknown[] = {"deepseek-llm", "default", "", "smollm2", "llama3"};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(*unknown); i++) {
        char word[80];
        snprintf(word, sizeof(word), "'%s' is not a known pre-tokenizer (smollm, gpt-2, qwen2, llama-bpe)", unknown[i]);
        refused(byte_vocab(unknown[i], NULL, NULL), word);
    }
    refused(byte_vocab(NULL, NULL, NULL), "tokenizer.ggml.pre is missing");
    static const char *const models[] = {"bert", "t5", "llama2", NULL};
    for (int i = 0; i < 4; i++) {
        gguf_writer *w = gguf_writer_open(3);
        if (models[i])
            gguf_writer_string(w, "tokenizer.ggml.model", models[i]);
        refused(w, models[i] ? models[i] : "tokenizer.ggml.model is missing");
    }
}

static void bad_token_lists_are_refused(void **state) {
    (void)state;
    static const extra none[] = {{0}};
    static const extra bytes[][2] = {{{"<0x-1>", VOCAB_BYTE, 0}},  {{"<0xZZ>", VOCAB_BYTE, 0}},
                                     {{"<0x100>", VOCAB_BYTE, 0}}, {{"<0x>", VOCAB_BYTE, 0}},
                                     {{"<0x4>", VOCAB_BYTE, 0}},   {{"a", VOCAB_BYTE, 0}},
                                     {{"<0x+4>", VOCAB_BYTE, 0}},  {{"", VOCAB_BYTE, 0}}};
    for (size_t i = 0; i < sizeof(bytes) / sizeof(*bytes); i++)
        refused(spm_vocab(false, bytes[i]), "tokenizer.ggml.tokens[3]");
    refused(spm_vocab(true, (const extra[]){{"x", 7, 0}, {0}}), "tokenizer.ggml.token_type[259] = 7");
    refused(spm_vocab(true, (const extra[]){{"x", -1, 0}, {0}}), "tokenizer.ggml.token_type[259] = -1");
    refused(spm_vocab(true, (const extra[]){{"x", 1, NAN}, {0}}), "tokenizer.ggml.scores[259] is not a number");
    refused(spm_vocab(true, (const extra[]){{"x", 1, 0}, {"y", 1, 0}, {"x", 1, 0}, {0}}),
            "tokenizer.ggml.tokens[259] and [261] are both 'x'");
    gguf_writer *w = gguf_writer_open(3);
    gguf_writer_string(w, "tokenizer.ggml.model", "llama");
    gguf_writer_strings(w, "tokenizer.ggml.tokens", NULL, 0);
    refused(w, "tokenizer.ggml.tokens is not a list of 1 to");
    w = gguf_writer_open(3);
    gguf_writer_string(w, "tokenizer.ggml.model", "llama");
    gguf_writer_strings(w, "tokenizer.ggml.tokens", (const char *const[]){"a", "b"}, 2);
    refused(w, "tokenizer.ggml.scores is missing");
    w = gguf_writer_open(3);
    gguf_writer_string(w, "tokenizer.ggml.model", "llama");
    gguf_writer_strings(w, "tokenizer.ggml.tokens", (const char *const[]){"a", "b"}, 2);
    gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_F32, (float[]){1}, 1);
    refused(w, "tokenizer.ggml.scores has 1 entries for 2 tokens");
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id"};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 2; k++) {
            w = spm_vocab(true, none);
            gguf_writer_int(w, keys[i], GGUF_I32, k ? -1 : 259);
            refused(w, keys[i]);
        }
    w = byte_vocab("gpt-2", NULL, NULL);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true);
    refused(w, "tokenizer.ggml.add_bos_token asks for a token");
    refused(byte_vocab("llama-bpe", NULL, NULL), "there is no tokenizer.ggml.bos_token_id");
}

static void bad_merges_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *merge, *word;
    } bad[] = {{"ab", "is not two texts with a space between"},
               {"a ", "is not two texts"},
               {" a", "is not two texts"},
               {"", "is not two texts"},
               {"xx b", "its left half is not in the vocabulary"},
               {"a xx", "its right half is not"},
               {"a b c", "its right half is not"},
               {"b a", "what it makes is not"}};
    static const extra extras[] = {{"ab", VOCAB_NORMAL, 0}, {0}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        char word[100];
        snprintf(word, sizeof(word), "tokenizer.ggml.merges[1] = '%s'", bad[i].merge);
        refused(byte_vocab("gpt-2", extras, (const char *const[]){"a b", bad[i].merge, NULL}), word);
        refused(byte_vocab("gpt-2", extras, (const char *const[]){bad[i].merge, NULL}), bad[i].word);
    }
    gguf_writer *w = gguf_writer_open(3);
    gguf_writer_string(w, "tokenizer.ggml.model", "gpt2");
    gguf_writer_string(w, "tokenizer.ggml.pre", "gpt-2");
    gguf_writer_strings(w, "tokenizer.ggml.tokens", (const char *const[]){"a", "b"}, 2);
    refused(w, "tokenizer.ggml.merges is missing");
}

/* ---- byte-level BPE ---- */

static void merges_join_by_rank_then_from_the_left(void **state) {
    (void)state;
    static const extra extras[] = {{"bc", 1, 0}, {"ab", 1, 0}, {"abc", 1, 0}, {"aa", 1, 0}, {"aaaa", 1, 0}, {0}};
    enum { BC = 256, AB, ABC, AA, AAAA };
    /* the last three: a second time, a pair that makes the same token, a loop among tokens */
    static const char *const merges[] = {"b c", "a b", "a a", "aa aa", "a bc", "b c", "ab c", NULL};
    bed b = open_bed(byte_vocab("gpt-2", extras, merges));
    PLAIN(&b, "abc", ABC); /* b c first, then a bc */
    PLAIN(&b, "ab", AB);
    PLAIN(&b, "abab", AB, AB);
    PLAIN(&b, "aaa", AA, 'a');
    PLAIN(&b, "aaaaa", AAAA, 'a');
    PLAIN(&b, "aabc", AA, BC); /* a a comes before a bc */
    PLAIN(&b, "abc abc", ABC, ' ', ABC);
    PLAIN(&b, "");
    close_bed(&b);
}

/* llama-bpe takes a word that is a token whole, though no merge makes it; the others do not. */
static void whole_words_are_taken_by_llama_bpe_alone(void **state) {
    (void)state;
    static const extra extras[] = {{"hello", 1, 0}, {"<s>", VOCAB_CONTROL, 0}, {0}};
    static const char *const names[] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    for (int i = 0; i < 4; i++) {
        gguf_writer *w = byte_vocab(names[i], extras, NULL);
        gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 257);
        bed b = open_bed(w);
        if (i == 3) {
            PLAIN(&b, "hello", 256);
            SPECIAL(&b, "hello", 257, 256); /* and adds BOS where the file is silent */
        } else {
            PLAIN(&b, "hello", 'h', 'e', 'l', 'l', 'o');
            SPECIAL(&b, "hi", 'h', 'i');
        }
        close_bed(&b);
    }
}

static void every_byte_comes_back(void **state) {
    (void)state;
    static const extra extras[] = {{"th", 1, 0}, {"\xc4\xa0t", 1, 0}, {0}};
    static const char *const names[] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    static const char *const merges[] = {"t h", "\xc4\xa0 t", NULL};
    for (int i = 0; i < 4; i++) {
        gguf_writer *w = byte_vocab(names[i], extras, merges);
        gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 0);
        bed b = open_bed(w);
        for (int round = 0; round < 400; round++) {
            char text[600];
            size_t n = 0;
            int n_characters = (int)(rng_u64(3, (uint64_t)round, 0) % 120);
            for (int k = 1; k <= n_characters; k++) { /* any character but surrogates, small ones more often */
                uint64_t draw = rng_u64(3, (uint64_t)round, (uint64_t)k);
                uint32_t c = (uint32_t)(draw >> 32) % (draw & 1 ? 0x80 : draw & 2 ? 0x3000 : 0x110000);
                c = c >= 0xD800 && c < 0xE000 ? ' ' : c;
                if (c < 0x80) {
                    text[n++] = (char)c;
                    continue;
                }
                int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
                text[n++] = (char)((more == 1 ? 0xC0 : more == 2 ? 0xE0 : 0xF0) | c >> 6 * more);
                while (more--)
                    text[n++] = (char)(0x80 | (c >> 6 * more & 0x3F));
            }
            int32_t *ids;
            int n_ids;
            size_t at = 0;
            assert_int_equal(tokenizer_encode(b.tok, text, n, TOKENIZER_PLAIN, &ids, &n_ids, NULL), PLEAT_OK);
            for (int k = 0; k < n_ids; k++) {
                size_t m;
                const char *bytes = tokenizer_bytes(b.tok, ids[k], false, &m);
                assert_true(at + m <= n && !memcmp(text + at, bytes, m));
                at += m;
            }
            assert_int_equal(at, n);
            free(ids);
        }
        close_bed(&b);
    }
}

static void broken_bytes_become_the_replacement_character(void **state) {
    (void)state;
    bed b = open_bed(byte_vocab("gpt-2", NULL, NULL));
    PLAIN(&b, "\xff", 0xef, 0xbf, 0xbd);
    PLAIN(&b, "a\x80\x81z", 'a', 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd, 'z');
    PLAIN(&b, "\xe2\x82", 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd);
    PLAIN(&b, "\xc0\x80", 0);                    /* overlong: its character */
    PLAIN(&b, "\xed\xa0\x80", 0xed, 0xa0, 0x80); /* a surrogate stays */
    PLAIN(&b, "a\0b", 'a', 0, 'b');
    PLAIN(&b, "\0", 0);
    PLAIN(&b, " ", ' ');
    PLAIN(&b, "\n \t", '\n', ' ', '\t');
    close_bed(&b);
}

/* ---- special tokens ---- */

static void special_text_is_parsed_only_on_demand(void **state) {
    (void)state;
    static const extra extras[] = {{"<s>", VOCAB_CONTROL, 0}, {"<e>", VOCAB_CONTROL, 0},   {"<user>", VOCAB_USER, 0},
                                   {"<s><s>", VOCAB_USER, 0}, {"<unk>", VOCAB_UNKNOWN, 0}, {0}};
    enum { S = 256, E, USER, SS, UNK };
    gguf_writer *w = byte_vocab("gpt-2", extras, NULL);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", S);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", E);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true);
    gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", true);
    bed b = open_bed(w);
    PLAIN(&b, "<s>", '<', 's', '>');
    PLAIN(&b, "a<user>b", 'a', USER, 'b'); /* user-defined ones always */
    PLAIN(&b, "<s><s><s>", SS, '<', 's', '>');
    SPECIAL(&b, "", S, E);
    SPECIAL(&b, "a<s>b<e>", S, 'a', S, 'b', E, E);
    SPECIAL(&b, "<s><s><s>", S, SS, S, E); /* the longest first */
    SPECIAL(&b, "<unk><use", S, UNK, '<', 'u', 's', 'e', E);
    expect(&b, TOKENIZER_PARSE, "x<e>", 4, 'x', E, END);
    expect(&b, TOKENIZER_PARSE, "", 0, END);
    assert_true(tokenizer_bos(b.tok) == S && tokenizer_eos(b.tok) == E);
    assert_true(tokenizer_adds_bos(b.tok) && tokenizer_adds_eos(b.tok));
    size_t n;
    tokenizer_bytes(b.tok, S, false, &n);
    assert_int_equal(n, 0);
    assert_memory_equal(tokenizer_bytes(b.tok, S, true, &n), "<s>", 3);
    assert_int_equal(n, 3);
    assert_memory_equal(tokenizer_bytes(b.tok, USER, false, &n), "<user>", 6);
    static const int32_t outside[] = {-1, INT32_MIN, 261, INT32_MAX};
    for (int i = 0; i < 4; i++) {
        tokenizer_bytes(b.tok, outside[i], true, &n);
        assert_true(n == 0 && !tokenizer_ends(b.tok, outside[i]));
    }
    assert_true(tokenizer_ends(b.tok, E) && !tokenizer_ends(b.tok, S) && !tokenizer_ends(b.tok, 'a'));
    close_bed(&b);
}

/* A merge or a whole word never makes a control token. */
static void merges_never_make_control_tokens(void **state) {
    (void)state;
    static const extra extras[] = {{"ab", VOCAB_CONTROL, 0}, {"xy", VOCAB_UNKNOWN, 0}, {0}};
    static const char *const names[] = {"gpt-2", "llama-bpe"};
    for (int i = 0; i < 2; i++) {
        gguf_writer *w = byte_vocab(names[i], extras, (const char *const[]){"a b", "x y", NULL});
        gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 256);
        bed b = open_bed(w);
        PLAIN(&b, "ab", 'a', 'b');
        PLAIN(&b, "xy", 'x', 'y');
        close_bed(&b);
    }
    bed b = open_bed(spm_vocab(true, (const extra[]){{"a", 1, 0}, {"b", 1, 0}, {"ab", VOCAB_CONTROL, 9}, {0}}));
    expect(&b, TOKENIZER_PLAIN, "ab", 2, 3 + 0xE2, 3 + 0x96, 3 + 0x81, 259, 260, END);
    close_bed(&b);
}

/* ---- SPM ---- */

static void spm_joins_by_score_and_falls_back_to_bytes(void **state) {
    (void)state;
    static const extra extras[] = {{"\xe2\x96\x81", 1, -9},
                                   {"a", 1, -9},
                                   {"b", 1, -9},
                                   {"c", 1, -9},
                                   {"ab", 1, -3},
                                   {"bc", 1, -2},
                                   {"abc", 1, -4},
                                   {"\xe2\x96\x81"
                                    "a",
                                    1, -1},
                                   {"<t>", VOCAB_USER, 0},
                                   {0}};
    enum { SPACE = 259, A, B, C, AB, BC, ABC, SPACE_A, T, BYTE = 3 };
    gguf_writer *w = spm_vocab(true, extras);
    gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", false);
    bed b = open_bed(w);
    PLAIN(&b, "abc", ABC); /* bc, then a bc */
    PLAIN(&b, "ab", AB);
    PLAIN(&b, " abc", SPACE_A, BC);
    PLAIN(&b, "  a", SPACE, SPACE_A);
    PLAIN(&b, "x", BYTE + 'x');
    PLAIN(&b, "a\xc3\xa9z", A, BYTE + 0xC3, BYTE + 0xA9, BYTE + 'z');
    PLAIN(&b, "\0\n", BYTE + 0, BYTE + '\n');
    PLAIN(&b,
          "\xff"
          "a",
          BYTE + 0xFF, BYTE + 'a'); /* a lead byte takes what follows, as llama.cpp has it */
    PLAIN(&b, "");
    PLAIN(&b, "a<t>a", A, T, A);
    SPECIAL(&b, "ab</s>ab", 1, AB, 2, AB);
    SPECIAL(&b, "", 1);
    size_t n;
    assert_memory_equal(tokenizer_bytes(b.tok, SPACE_A, false, &n), " a", 2);
    assert_int_equal(n, 2);
    assert_memory_equal(tokenizer_bytes(b.tok, BYTE + 0, false, &n), "\0", 1);
    assert_int_equal(n, 1);
    close_bed(&b);
    b = open_bed(spm_vocab(true, extras)); /* silent: a space goes in front, and again behind a special token */
    PLAIN(&b, "a", SPACE_A);
    PLAIN(&b, " a", SPACE, SPACE_A);
    PLAIN(&b, "");
    SPECIAL(&b, "a</s>ab", 1, SPACE_A, 2, SPACE_A, B); /* the space and a, at -1, join before ab at -3 */
    close_bed(&b);
    b = open_bed(spm_vocab(false, (const extra[]){{"a", 1, 0}, {"x", 1, 0}, {0}})); /* no byte tokens: unknown */
    expect(&b, TOKENIZER_PLAIN, "ayx", 3, 0, 0, 0, 3, 0, 4, END);
    close_bed(&b);
}

/* ---- long runs ---- */

/* A run of one text; a quadratic loop would never end here. */
static void run_of(const bed *b, const char *part, int n_bytes) {
    size_t n_part = strlen(part);
    char *text = malloc((size_t)n_bytes);
    int32_t *ids;
    int n_ids;
    size_t at = 0;
    for (int i = 0; i < n_bytes; i++)
        text[i] = part[(size_t)i % n_part];
    assert_int_equal(tokenizer_encode(b->tok, text, (size_t)n_bytes, TOKENIZER_SPECIAL, &ids, &n_ids, NULL), PLEAT_OK);
    for (int k = 0; k < n_ids; k++) {
        size_t m;
        tokenizer_bytes(b->tok, ids[k], true, &m);
        at += m;
    }
    assert_true(at >= (size_t)n_bytes && at <= (size_t)n_bytes + 3 + 3); /* BOS, a space, a broken end */
    free(ids);
    free(text);
}

static void long_runs_are_not_quadratic(void **state) {
    (void)state;
    static const char *const parts[] = {"a", " ",   "\n", "\xcc\x81", "1", "<", "<s", "a ", "\xf0\x9f\x98\x80",
                                        "'", "\xff"};
    static const extra extras[] = {{"aa", 1, 2},
                                   {"aaaa", 1, 3},
                                   {"\xc4\xa0\xc4\xa0", 1, 2},
                                   {"\xcc\x81\xcc\x81", 1, 1},
                                   {"<s>", VOCAB_CONTROL, 0},
                                   {"<<", VOCAB_USER, 0},
                                   {"<<<", VOCAB_USER, 0},
                                   {0}};
    static const extra spm_extras[] = {
        {"a", 1, 1},           {"aa", 1, 2}, {"aaaa", 1, 3}, {"\xe2\x96\x81", 1, 1}, {"\xe2\x96\x81\xe2\x96\x81", 1, 2},
        {"<<", VOCAB_USER, 0}, {0}};
    static const char *const merges[] = {"a a", "aa aa", "\xc4\xa0 \xc4\xa0", NULL};
    static const char *const names[] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    int n_bytes = env_sanitized() ? 100000 : 1000000;
    for (int i = 0; i < 5; i++) {
        gguf_writer *w = i < 4 ? byte_vocab(names[i], extras, merges) : spm_vocab(true, spm_extras);
        if (i < 4)
            gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 260);
        bed b = open_bed(w);
        for (size_t k = 0; k + 1 < sizeof(parts) / sizeof(*parts); k++)
            run_of(&b, parts[k], n_bytes);
        int32_t *ids;
        int n_ids;
        char *broken = malloc((size_t)n_bytes);
        memset(broken, 0xff, (size_t)n_bytes);
        assert_int_equal(tokenizer_encode(b.tok, broken, (size_t)n_bytes, TOKENIZER_PLAIN, &ids, &n_ids, NULL),
                         PLEAT_OK);
        assert_true(n_ids >= n_bytes);
        free(ids);
        free(broken);
        close_bed(&b);
    }
}

static void texts_that_cannot_be_counted_are_refused(void **state) {
    (void)state;
    bed b = open_bed(byte_vocab("gpt-2", NULL, NULL));
    int32_t *ids = NULL;
    int n_ids;
    pleat_error error;
    assert_int_equal(tokenizer_encode(b.tok, "", (size_t)1 << 40, TOKENIZER_PLAIN, &ids, &n_ids, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "1099511627776 bytes"));
    assert_null(ids);
    close_bed(&b);
}

int main(void) {
    alarm(300); /* a loop that never ends is a failure */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_cut_as_the_published_patterns_cut),
        cmocka_unit_test(unknown_tokenizers_are_refused_by_name),
        cmocka_unit_test(bad_token_lists_are_refused),
        cmocka_unit_test(bad_merges_are_refused),
        cmocka_unit_test(merges_join_by_rank_then_from_the_left),
        cmocka_unit_test(whole_words_are_taken_by_llama_bpe_alone),
        cmocka_unit_test(every_byte_comes_back),
        cmocka_unit_test(broken_bytes_become_the_replacement_character),
        cmocka_unit_test(special_text_is_parsed_only_on_demand),
        cmocka_unit_test(merges_never_make_control_tokens),
        cmocka_unit_test(spm_joins_by_score_and_falls_back_to_bytes),
        cmocka_unit_test(long_runs_are_not_quadratic),
        cmocka_unit_test(texts_that_cannot_be_counted_are_refused),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
