/* fuzz_chat.c - a file's chat template, up to a zero byte, and what a user writes, behind it: recognised or refused,
 * and never a control token out of the user's text. */
#include "fuzz/fuzz.h"
#include "support/gguf_writer.h"
#include "text/chat.h"
#include "text/vocab.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

const char fuzz_name[] = "chat";
const int fuzz_rounds = 5000;

static const char *const marks[] = {"<|im_start|>",
                                    "<|im_end|>",
                                    "<|start_header_id|>",
                                    "<|end_header_id|>",
                                    "<|eot_id|>",
                                    "<start_of_turn>",
                                    "<end_of_turn>",
                                    "<s>",
                                    "</s>",
                                    "[INST]",
                                    "[/INST]"};
enum { N_MARKS = sizeof(marks) / sizeof(*marks) };

static gguf_writer *with_template(const char *template) {
    static char piece[256][4];
    const char *tokens[256 + N_MARKS];
    int32_t types[256 + N_MARKS];
    for (int i = 0; i < 256 + N_MARKS; i++) {
        types[i] = i < 256 ? VOCAB_NORMAL : VOCAB_CONTROL;
        tokens[i] = i < 256 ? piece[i] : marks[i - 256];
        if (i < 256)
            piece[i][vocab_byte_char((uint8_t)i, piece[i])] = 0;
    }
    gguf_writer *w = gguf_writer_open(3);
    gguf_writer_string(w, "tokenizer.ggml.model", "gpt2");
    gguf_writer_string(w, "tokenizer.ggml.pre", "gpt-2");
    gguf_writer_strings(w, "tokenizer.ggml.tokens", tokens, 256 + N_MARKS);
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32, types, 256 + N_MARKS);
    gguf_writer_strings(w, "tokenizer.ggml.merges", NULL, 0);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 256 + 7);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 256 + 8);
    gguf_writer_string(w, "tokenizer.chat_template", template);
    return w;
}

/* Control tokens in the prompt of one user message. */
static int count(const tokenizer *tok, const gguf *file, chat_format format, const char *text, size_t n) {
    chat_message m = {"user", text, n};
    int32_t *ids;
    int n_ids, n_control = 0;
    if (chat_encode(tok, file, format, &m, 1, 0, &ids, &n_ids, NULL))
        abort();
    for (int i = 0; i < n_ids; i++)
        n_control += ids[i] >= 256;
    free(ids);
    return n_control;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    char path[40], *template = strndup((const char *)bytes, n);
    size_t n_template = strlen(template), n_image;
    const char *text = n_template < n ? (const char *)bytes + n_template + 1 : "";
    size_t n_text = n_template < n ? n - n_template - 1 : 0;
    gguf_writer *w = with_template(template);
    uint8_t *image = gguf_writer_image(w, &n_image, NULL);
    gguf_writer_close(w);
    int fd = memfd_create("chat", MFD_CLOEXEC);
    gguf *file;
    tokenizer *tok;
    chat_format format;
    if (fd < 0 || write(fd, image, n_image) != (ssize_t)n_image)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (gguf_open(path, &file, NULL) || tokenizer_open(file, &tok, NULL))
        abort();
    if (!chat_format_detect(file, &format, NULL) &&
        count(tok, file, format, text, n_text) != count(tok, file, format, "x", 1))
        abort();
    for (int i = 0; i < CHAT_COUNT; i++) /* and named by hand */
        count(tok, file, (chat_format)i, text, n_text);
    tokenizer_close(tok);
    gguf_close(file);
    close(fd);
    free(image);
    free(template);
    return 0;
}

bool fuzz_seed(int i, fuzz_input *seed) {
    static const char *const templates[] = {
        "{{ '<|im_start|>system\nYou are a model.<|im_end|>\n<|im_start|>assistant' }}",
        "{{ '<|start_header_id|>' + r + '<|end_header_id|>' }}{{ \"Cutting Knowledge Date: December 2023\\n\" "
        "}}'<|eot_id|>'",
        "<start_of_turn>model{{ x | trim }}<end_of_turn>",
        "<<SYS>>{{ '[INST] ' + x + ' [/INST]' }}<</SYS>>",
        "{% if loop.last and system_message %}{{ \" [INST] \" + message[\"content\"]|trim + \"[/INST]\" + \" \" + "
        "message }}",
        "{{ not known }}",
    };
    static const char users[] = "\0  hi <|im_end|> [INST] </s>\xc2\xa0";
    if (i >= 6)
        return false;
    size_t n = strlen(templates[i]);
    *seed = (fuzz_input){malloc(n + sizeof(users)), n + sizeof(users) - 1};
    memcpy(seed->bytes, templates[i], n);
    memcpy(seed->bytes + n, users, sizeof(users));
    return true;
}
