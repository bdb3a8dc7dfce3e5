/* fuzz_tokenizer.c - text through every kind of tokenizer: ids in range, and every byte back where the text is valid.
 * The first byte picks tokenizer and mode. */
#include "fuzz/fuzz.h"
#include "support/tiny_model.h"
#include "text/tokenizer.h"
#include "text/utf8.h"
#include "text/vocab.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char fuzz_name[] = "tokenizer";
const int fuzz_rounds = 250000;

enum { N_KINDS = 5, SPM = 4 };
static const char *const names[] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};

static tokenizer *open_kind(int kind) {
    static gguf *file[N_KINDS]; /* the tokenizer points into it */
    tokenizer *tok = NULL;
    char path[] = "/tmp/pleat-fuzz-XXXXXX";
    int fd = mkstemp(path);
    tiny_options o = tiny_default();
    o.n_layer = 1;
    o.head_dim = o.n_embd = o.n_ff = 32;
    o.n_head = o.n_head_kv = 1;
    o.spm = kind == SPM;
    gguf_writer *w = tiny_writer(&o);
    size_t n;
    uint8_t *image = gguf_writer_image(w, &n, NULL), *pre = kind < SPM ? memmem(image, n, "smollm", 6) : NULL;
    gguf_writer_close(w);
    if (pre &&
        strlen(names[kind]) <= 6) { /* the name in its place; what is left over is cut from the length before it */
        size_t shorter = 6 - strlen(names[kind]);
        pre[-8] = (uint8_t)strlen(names[kind]);
        memcpy(pre, names[kind], strlen(names[kind]));
        memmove(pre + 6 - shorter, pre + 6, n - (size_t)(pre + 6 - image));
        n -= shorter;
    }
    if (pre && strlen(names[kind]) > 6) {
        size_t longer = strlen(names[kind]) - 6, at = (size_t)(pre - image);
        image = realloc(image, n + longer);
        pre = image + at;
        memmove(pre + 6 + longer, pre + 6, n - at - 6);
        memcpy(pre, names[kind], 6 + longer);
        pre[-8] = (uint8_t)(6 + longer);
        n += longer;
    }
    image = realloc(image, n + 64); /* the data may have to start later */
    memset(image + n, 0, 64);
    if (fd < 0 || write(fd, image, n + 64) != (ssize_t)(n + 64))
        abort();
    close(fd);
    free(image);
    pleat_error error;
    if (gguf_open(path, &file[kind], &error) || tokenizer_open(file[kind], &tok, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    unlink(path);
    return tok;
}

static void check(const tokenizer *tok, const char *bytes, size_t n, const int32_t *ids, int n_ids, bool exact) {
    size_t at = 0;
    for (int i = 0; i < n_ids; i++) {
        size_t m;
        if (ids[i] < 0 || ids[i] >= tokenizer_n_vocab(tok))
            abort();
        const char *back = tokenizer_bytes(tok, ids[i], false, &m);
        if (exact && (m > n - at || memcmp(back, bytes + at, m)))
            abort();
        at += exact ? m : 0;
    }
    if (exact && at != n)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static tokenizer *tok[N_KINDS];
    if (n == 0)
        return 0;
    int kind = bytes[0] % N_KINDS, n_ids;
    tokenizer_mode mode = (tokenizer_mode)(bytes[0] / N_KINDS % 3);
    int32_t *ids;
    if (!tok[kind])
        tok[kind] = open_kind(kind);
    const char *text = (const char *)bytes + 1;
    if (tokenizer_encode(tok[kind], text, n - 1, mode, &ids, &n_ids, NULL))
        return 0;
    check(tok[kind], text, n - 1, ids, n_ids, kind != SPM && mode == TOKENIZER_PLAIN && utf8_valid(text, n - 1));
    free(ids);
    return 0;
}

bool fuzz_seed(int i, fuzz_input *seed) {
    static const char *const texts[] = {
        "?the quick the the", "?It's <|im_start|>user\n12345 67", "?\xe2\x96\x81 caf\xc3\xa9 \xf0\x9f\x98\x80 \xd9\xa3",
        "?   \n\n\t \r\n x",  "?<s></s><unk><extra><|im_end|>",   "?\xff\xc3(\xed\xa0\x80\xe2\x82",
    };
    if (i >= 30)
        return false;
    *seed = fuzz_text(texts[i % 6]);
    seed->bytes[0] = (uint8_t)(i / 2);
    return true;
}
