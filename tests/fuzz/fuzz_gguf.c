/* fuzz_gguf.c - a model file: the container and everything that can be asked of it, its vocabulary, and, when its
 * numbers hold, the whole model. */
#include "fuzz/fuzz.h"
#include "model/model.h"
#include "support/tiny_model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

const char fuzz_name[] = "gguf";
const int fuzz_rounds = 6000;

static void ask(const gguf *file) {
    char out[120], tiny[3];
    int64_t x;
    double y;
    bool truth, found;
    gguf_string s;
    gguf_array list;
    for (int i = 0; i < gguf_n_keys(file); i++) {
        char key[80];
        gguf_string name = gguf_key_at(file, i, NULL);
        gguf_value_text(file, i, out, sizeof(out));
        gguf_value_text(file, i, tiny, sizeof(tiny));
        snprintf(key, sizeof(key), "%.*s", (int)(name.n < 79 ? name.n : 79), name.bytes);
        gguf_get_int(file, key, -5, 1 << 20, &x, &found, NULL);
        gguf_get_float(file, key, &y, &found, NULL);
        gguf_get_bool(file, key, &truth, &found, NULL);
        gguf_get_string(file, key, &s, &found, NULL);
        if (!gguf_get_array(file, key, &list, &found, NULL) && found && list.type != GGUF_STRING && list.n)
            y = gguf_array_float(&list, list.n - 1) + (double)gguf_array_int(&list, 0);
    }
    for (int i = 0; i < gguf_n_tensors(file); i++) {
        const gguf_tensor *t = gguf_tensor_at(file, i);
        int64_t n = block_traits_of(t->type)->elements;
        float block[256];
        block_open(t->type, t->data, n, block);
        block_open(t->type, t->data + t->bytes - block_traits_of(t->type)->bytes, n, block);
    }
}

static void tokenize(const gguf *file) {
    static const char words[] = "the <|im_start|> caf\xc3\xa9 \xff\0 12";
    tokenizer *tok;
    int32_t *ids;
    int n_ids;
    if (tokenizer_open(file, &tok, NULL))
        return;
    if (!tokenizer_encode(tok, words, sizeof(words), TOKENIZER_SPECIAL, &ids, &n_ids, NULL)) {
        for (int i = 0; i < n_ids; i++) {
            size_t n;
            if (ids[i] < 0 || ids[i] >= tokenizer_n_vocab(tok))
                abort();
            tokenizer_bytes(tok, ids[i], true, &n);
        }
        free(ids);
    }
    tokenizer_close(tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    char path[40];
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    gguf *file = NULL;
    pleat_model *model = NULL;
    pleat_error error;
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (!gguf_open(path, &file, &error)) {
        ask(file);
        tokenize(file);
        gguf_close(file);
        if (!pleat_model_open(path, 1, &model, &error))
            pleat_model_close(model);
    }
    close(fd);
    return 0;
}

bool fuzz_seed(int i, fuzz_input *seed) {
    static const char *const archs[] = {"llama", "qwen2", "gemma3"};
    if (i >= 6)
        return false;
    tiny_options o = tiny_default();
    o.arch = archs[i % 3];
    o.n_layer = o.n_head = o.n_head_kv = 1;
    o.head_dim = o.n_embd = o.n_ff = 32;
    o.type = i % 2 ? BLOCK_Q8_0 : BLOCK_Q4_1;
    o.spm = i >= 3;
    o.scaling = i == 1 ? "yarn" : NULL;
    gguf_writer *w = tiny_writer(&o);
    if (i == 4)
        gguf_writer_alignment(w, 64);
    seed->bytes = gguf_writer_image(w, &seed->n, NULL);
    gguf_writer_close(w);
    return true;
}
