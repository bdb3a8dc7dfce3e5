/* test_gguf.c - the container: every way in which a file can be wrong is refused with file, byte, field and reason, and
 * costs no more memory than its own size and a fixed margin; whole files are read right. */
#include "gguf/gguf.h"
#include "support/env.h"
#include "support/gguf_writer.h"
#include "support/meter.h"
#include "base/rng.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

enum { MARGIN_BYTES = 16 << 20 };

/* ---- a file in memory that has a path ---- */

typedef struct memory_file {
    int fd;
    char path[40];
    size_t n;
} memory_file;

static memory_file in_memory(const void *bytes, size_t n) {
    memory_file f = {.fd = memfd_create("gguf", 0), .n = n};
    assert_true(f.fd >= 0);
    assert_int_equal(write(f.fd, bytes, n), n);
    snprintf(f.path, sizeof(f.path), "/proc/self/fd/%d", f.fd);
    return f;
}

static memory_file of_writer(gguf_writer *w, size_t *header_bytes) {
    size_t n;
    uint8_t *image = gguf_writer_image(w, &n, header_bytes);
    memory_file f = in_memory(image, n);
    free(image);
    gguf_writer_close(w);
    return f;
}

/* Opens under the meter; the caller closes what was opened. */
static pleat_status open_metered(const memory_file *f, gguf **file, pleat_error *error) {
    *file = NULL;
    error->text[0] = 0;
    meter_start();
    pleat_status status = gguf_open(f->path, file, error);
    assert_true(meter_peak() <= f->n + MARGIN_BYTES);
    return status;
}

/* Refused as bad input, by a sentence that holds the path, a byte offset and each of the words. */
static void refused_file(memory_file f, const char *label, const char *const *words) {
    gguf *file;
    pleat_error error;
    pleat_status status = open_metered(&f, &file, &error);
    if (status != PLEAT_EINPUT)
        fail_msg("%s: status %d (%s)", label, status, error.text);
    if (!strstr(error.text, f.path) || !strstr(error.text, ": byte "))
        fail_msg("%s: the sentence does not say where: %s", label, error.text);
    for (; *words; words++)
        if (!strstr(error.text, *words))
            fail_msg("%s: \"%s\" is not in: %s", label, *words, error.text);
    assert_null(strchr(error.text, '\n'));
    close(f.fd);
}

#define refused(writer, ...)                                                                                           \
    refused_file(of_writer(writer, NULL), #__VA_ARGS__, (const char *const[]){__VA_ARGS__, NULL})
#define refused_bytes(bytes, n, ...)                                                                                   \
    refused_file(in_memory(bytes, n), #__VA_ARGS__, (const char *const[]){__VA_ARGS__, NULL})

/* ---- files ---- */

static const float numbers[64] = {1, -2, 3.5f};

/* A small file with every kind of value and three tensors. */
static gguf_writer *sample(uint32_t version) {
    static const char *const strings[] = {"one", "", "drei"};
    static const int16_t shorts[] = {-1, 2, 30000};
    gguf_writer *w = gguf_writer_open(version);
    gguf_writer_string(w, "general.architecture", "sample");
    gguf_writer_int(w, "a.u8", GGUF_U8, 200);
    gguf_writer_int(w, "a.i8", GGUF_I8, -100);
    gguf_writer_int(w, "a.u16", GGUF_U16, 60000);
    gguf_writer_int(w, "a.i16", GGUF_I16, -30000);
    gguf_writer_int(w, "a.u32", GGUF_U32, 4000000000);
    gguf_writer_int(w, "a.i32", GGUF_I32, -2000000000);
    gguf_writer_int(w, "a.u64", GGUF_U64, (int64_t)1 << 62);
    gguf_writer_int(w, "a.i64", GGUF_I64, -((int64_t)1 << 62));
    gguf_writer_int(w, "a.huge", GGUF_U64, -1);
    gguf_writer_f32(w, "a.f32", 0.5f);
    gguf_writer_f64(w, "a.f64", 1e300);
    gguf_writer_bool(w, "a.bool", true);
    gguf_writer_array(w, "a.shorts", GGUF_I16, shorts, 3);
    gguf_writer_strings(w, "a.strings", strings, 3);
    gguf_writer_array(w, "a.nothing", GGUF_U8, NULL, 0);
    gguf_writer_tensor(w, "x", BLOCK_F32, 1, (int64_t[]){3}, numbers);
    gguf_writer_tensor(w, "y", BLOCK_Q8_0, 2, (int64_t[]){32, 2}, numbers);
    gguf_writer_tensor(w, "z", BLOCK_F16, 4, (int64_t[]){2, 1, 2, 1}, numbers);
    return w;
}

static gguf_writer *empty(void) {
    return gguf_writer_open(3);
}

static gguf_writer *with_entry(gguf_writer_entry e) {
    gguf_writer *w = empty();
    e.name = e.name ? e.name : "t";
    e.name_bytes = e.name_bytes ? e.name_bytes : strlen(e.name);
    gguf_writer_entry_raw(w, &e);
    gguf_writer_pad(w, 64);
    return w;
}

/* ---- whole files ---- */

static void check_int(const gguf *file, const char *key, int64_t want) {
    int64_t value = 0;
    bool found = false;
    assert_int_equal(gguf_get_int(file, key, INT64_MIN, INT64_MAX, &value, &found, NULL), PLEAT_OK);
    assert_true(found);
    assert_true(value == want);
}

static void check_values(const gguf *file) {
    double x;
    bool truth = false, found;
    gguf_array list;
    gguf_string s[3];
    check_int(file, "a.u8", 200);
    check_int(file, "a.i8", -100);
    check_int(file, "a.u16", 60000);
    check_int(file, "a.i16", -30000);
    check_int(file, "a.u32", 4000000000);
    check_int(file, "a.i32", -2000000000);
    check_int(file, "a.u64", (int64_t)1 << 62);
    check_int(file, "a.i64", -((int64_t)1 << 62));
    assert_int_equal(gguf_get_float(file, "a.f32", &x, &found, NULL), PLEAT_OK);
    assert_true(found && x == 0.5);
    assert_int_equal(gguf_get_float(file, "a.f64", &x, &found, NULL), PLEAT_OK);
    assert_true(found && x == 1e300);
    assert_int_equal(gguf_get_bool(file, "a.bool", &truth, &found, NULL), PLEAT_OK);
    assert_true(found && truth);
    assert_int_equal(gguf_get_array(file, "a.shorts", &list, &found, NULL), PLEAT_OK);
    assert_true(found && list.n == 3 && gguf_array_int(&list, 0) == -1 && gguf_array_int(&list, 2) == 30000);
    assert_true(gguf_array_float(&list, 1) == 2);
    assert_int_equal(gguf_get_array(file, "a.strings", &list, &found, NULL), PLEAT_OK);
    assert_true(found && list.n == 3);
    gguf_array_strings(&list, s);
    assert_true(s[0].n == 3 && !memcmp(s[0].bytes, "one", 3) && s[1].n == 0 && s[2].n == 4);
    assert_int_equal(gguf_get_array(file, "a.nothing", &list, &found, NULL), PLEAT_OK);
    assert_true(found && list.n == 0);
}

static void check_tensors(const gguf *file) {
    assert_int_equal(gguf_n_tensors(file), 3);
    const gguf_tensor *x = gguf_tensor_find(file, "x"), *y = gguf_tensor_find(file, "y"),
                      *z = gguf_tensor_find(file, "z");
    assert_true(x && y && z && !gguf_tensor_find(file, "w") && gguf_tensor_at(file, 1) == y);
    assert_true(x->type == BLOCK_F32 && x->n_dims == 1 && x->ne[0] == 3 && x->ne[3] == 1 && x->bytes == 12);
    assert_memory_equal(x->data, numbers, 12);
    assert_true(y->type == BLOCK_Q8_0 && y->ne[1] == 2 && y->bytes == 68);
    assert_true(z->n_dims == 4 && z->ne[2] == 2 && z->bytes == 8);
    const gguf_tensor *all[] = {x, y, z};
    for (int i = 0; i < 3; i++)
        assert_true(all[i]->file_offset % 32 == 0 && all[i]->file_offset + all[i]->bytes <= gguf_file_bytes(file));
}

static void versions_2_and_3_are_read(void **state) {
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        memory_file f = of_writer(sample(version), NULL);
        gguf *file;
        pleat_error error;
        if (open_metered(&f, &file, &error))
            fail_msg("version %u: %s", version, error.text);
        assert_string_equal(gguf_path(file), f.path);
        assert_int_equal(gguf_file_bytes(file), f.n);
        check_values(file);
        check_tensors(file);
        gguf_close(file);
        close(f.fd);
    }
}

static void another_alignment_is_followed(void **state) {
    (void)state;
    gguf_writer *w = empty();
    gguf_writer_alignment(w, 4096);
    for (int i = 0; i < 3; i++)
        gguf_writer_tensor(w, (const char *[]){"a", "b", "c"}[i], BLOCK_F32, 1, (int64_t[]){5}, numbers);
    memory_file f = of_writer(w, NULL);
    gguf *file;
    pleat_error error;
    assert_int_equal(open_metered(&f, &file, &error), PLEAT_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(gguf_tensor_at(file, i)->file_offset % 4096, 0);
        assert_memory_equal(gguf_tensor_at(file, i)->data, numbers, 20);
    }
    gguf_close(file);
    close(f.fd);
}

static void values_are_shown_in_words(void **state) {
    (void)state;
    static const struct {
        const char *key, *text;
    } want[] = {{"general.architecture", "sample"},
                {"a.u8", "200"},
                {"a.i64", "-4611686018427387904"},
                {"a.huge", "18446744073709551615"},
                {"a.f32", "0.5"},
                {"a.bool", "true"},
                {"a.shorts", "3 x i16 [-1, 2, 30000]"},
                {"a.strings", "3 x string [\"one\", \"\", \"drei\"]"},
                {"a.nothing", "0 x u8 []"}};
    memory_file f = of_writer(sample(3), NULL);
    gguf *file;
    pleat_error error;
    assert_int_equal(open_metered(&f, &file, &error), PLEAT_OK);
    size_t n_seen = 0;
    for (int i = 0; i < gguf_n_keys(file); i++) {
        char out[100], small[5];
        gguf_string key = gguf_key_at(file, i, NULL);
        for (size_t k = 0; k < sizeof(want) / sizeof(*want); k++)
            if (strlen(want[k].key) == key.n && !memcmp(want[k].key, key.bytes, key.n)) {
                assert_string_equal(gguf_value_text(file, i, out, sizeof(out)), want[k].text);
                assert_true(strlen(gguf_value_text(file, i, small, sizeof(small))) < sizeof(small));
                n_seen++;
            }
    }
    assert_int_equal(n_seen, sizeof(want) / sizeof(*want));
    gguf_close(file);
    close(f.fd);
}

static void a_value_of_another_type_is_refused(void **state) {
    (void)state;
    memory_file f = of_writer(sample(3), NULL);
    gguf *file;
    pleat_error error;
    int64_t whole = 77;
    double real = 77;
    bool truth = true, found;
    gguf_string s = {NULL, 77};
    gguf_array list = {.n = 77};
    assert_int_equal(open_metered(&f, &file, &error), PLEAT_OK);
    assert_int_equal(gguf_get_int(file, "a.f32", 0, 9, &whole, &found, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "a.f32 is of type f32; an integer is expected"));
    assert_non_null(strstr(error.text, ": byte "));
    assert_int_equal(gguf_get_int(file, "a.u8", 0, 199, &whole, &found, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "a.u8 is 200; it must be between 0 and 199"));
    assert_int_equal(gguf_get_int(file, "a.i8", -99, 0, &whole, &found, &error), PLEAT_EINPUT);
    assert_int_equal(gguf_get_int(file, "a.huge", 0, INT64_MAX, &whole, &found, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "18446744073709551615"));
    assert_int_equal(gguf_get_int(file, "a.bool", 0, 9, &whole, &found, &error), PLEAT_EINPUT);
    assert_int_equal(gguf_get_float(file, "a.u8", &real, &found, &error), PLEAT_EINPUT);
    assert_int_equal(gguf_get_bool(file, "a.u8", &truth, &found, &error), PLEAT_EINPUT);
    assert_int_equal(gguf_get_string(file, "a.u8", &s, &found, &error), PLEAT_EINPUT);
    assert_int_equal(gguf_get_array(file, "a.u8", &list, &found, &error), PLEAT_EINPUT);
    assert_int_equal(gguf_get_int(file, "a.none", 0, 9, &whole, &found, &error), PLEAT_OK);
    assert_true(!found && whole == 77 && real == 77 && s.n == 77 && list.n == 77);
    gguf_close(file);
    close(f.fd);
}

/* ---- G1 to G4: the head ---- */

static void heads_are_checked(void **state) {
    (void)state;
    size_t n;
    gguf_writer *w = sample(3);
    uint8_t *image = gguf_writer_image(w, &n, NULL);
    gguf_writer_close(w);
    refused_bytes(image, 0, "byte 0", "empty");
    refused_bytes(image, 3, "byte 0", "the head");
    memcpy(image, "FUGG", 4);
    refused_bytes(image, n, "byte 0", "not a GGUF file");
    memcpy(image, "GGUF", 4);
    static const struct {
        uint32_t version;
        const char *word;
    } bad[] = {
        {0, "version 0"}, {1, "version 1"}, {4, "version 4"}, {0x03000000, "big-endian"}, {0x02000000, "big-endian"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        memcpy(image + 4, &bad[i].version, 4);
        refused_bytes(image, n, "byte 4", bad[i].word);
    }
    free(image);
}

/* ---- G5, G6, G21: counts ---- */

static void counts_are_checked_before_memory_is_taken(void **state) {
    (void)state;
    static const uint64_t counts[] = {UINT64_MAX, (uint64_t)1 << 63, (uint64_t)1 << 32, 65537, 1000000, 60000};
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        gguf_writer *w = sample(3);
        gguf_writer_say_tensors(w, counts[i]);
        refused(w, "byte 8", "the number of tensors");
        w = sample(3);
        gguf_writer_say_keys(w, counts[i]);
        refused(w, "byte 16", "the number of keys");
    }
    gguf_writer *w = sample(3); /* one key more than there is: a tensor's entry is no key */
    gguf_writer_say_keys(w, 17);
    refused(w, "byte ");
}

/* ---- G7 to G13: keys and values ---- */

static void key(gguf_writer *w, const char *name, uint32_t type, const void *value, size_t n) {
    gguf_writer_raw(w, name, strlen(name), strlen(name), type, value, n);
}

static void key_names_are_checked(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        uint64_t said;
        const char *word;
    } bad[] = {{"abc", 3, UINT64_MAX, "18446744073709551615 bytes"},
               {"abc", 3, 1000, "1000 bytes"},
               {"", 0, 0, "0 bytes"},
               {"a\0b", 3, 3, "0x00"},
               {"a\xff", 2, 2, "0xff"},
               {"a\xc3\x28", 3, 3, "0xc3"},
               {"a\nb", 3, 3, "0x0a"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        gguf_writer *w = empty();
        gguf_writer_raw(w, bad[i].bytes, bad[i].n, bad[i].said, GGUF_U32, numbers, 4);
        refused(w, "byte 24", "a key", bad[i].word);
    }
    gguf_writer *w = empty();
    gguf_writer_u32(w, "again", 1);
    gguf_writer_u32(w, "other", 1);
    gguf_writer_u32(w, "again", 1);
    refused(w, "byte 66", "the key again", "twice");
}

static void value_types_are_checked(void **state) {
    (void)state;
    static const uint32_t types[] = {13, 255, UINT32_MAX};
    for (int i = 0; i < 3; i++) {
        char word[40];
        gguf_writer *w = empty();
        key(w, "k", types[i], numbers, 16);
        snprintf(word, sizeof(word), "unknown type %u", types[i]);
        refused(w, "byte 33", "k is of", word);
    }
    gguf_writer *w = empty();
    key(w, "truth", GGUF_BOOL, "\2", 1);
    refused(w, "byte 37", "truth", "truth value of 2");
}

static void string_lengths_are_checked(void **state) {
    (void)state;
    static const uint64_t lengths[] = {UINT64_MAX, ((uint64_t)1 << 63) - 1, (uint64_t)1 << 31, 9};
    for (int i = 0; i < 4; i++) {
        uint8_t value[16] = {0};
        memcpy(value, &lengths[i], 8);
        gguf_writer *w = empty();
        key(w, "text", GGUF_STRING, value, 16);
        refused(w, "byte 40", "a string", "8 are left");
    }
}

static void arrays_are_checked(void **state) {
    (void)state;
    static const struct {
        uint32_t element;
        uint64_t n;
        const char *word;
    } bad[] = {{GGUF_F64, (uint64_t)1 << 61, "more than the 16 bytes left"},
               {GGUF_U64, UINT64_MAX, "more than"},
               {GGUF_U8, 17, "17 elements"},
               {GGUF_STRING, 3, "3 elements"},
               {13, 1, "unknown type 13"},
               {GGUF_ARRAY, 1, "array of arrays"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        uint8_t value[28] = {0};
        memcpy(value, &bad[i].element, 4);
        memcpy(value + 4, &bad[i].n, 8);
        gguf_writer *w = empty();
        key(w, "list", GGUF_ARRAY, value, sizeof(value));
        refused(w, "byte 40", "list", bad[i].word);
    }
    uint8_t strings[32] = {0}; /* two strings, the second longer than the file */
    strings[0] = GGUF_STRING;
    strings[4] = 2;
    strings[20] = 200;
    gguf_writer *w = empty();
    key(w, "list", GGUF_ARRAY, strings, sizeof(strings));
    refused(w, "byte 60", "a string of an array", "200 bytes");
}

static void deep_arrays_do_not_recurse(void **state) {
    (void)state;
    enum { DEPTH = 10000 };
    uint8_t *value = calloc(DEPTH, 12);
    for (int i = 0; i < DEPTH; i++) {
        value[12 * i] = GGUF_ARRAY;
        value[12 * i + 4] = 1;
    }
    gguf_writer *w = empty();
    key(w, "deep", GGUF_ARRAY, value, 12 * DEPTH);
    free(value);
    refused(w, "byte 40", "deep", "array of arrays");
}

/* ---- G15 to G17: alignment ---- */

static void alignments_are_checked(void **state) {
    (void)state;
    static const uint32_t bad[] = {0, 1, 3, 4, 33, (uint32_t)1 << 31};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        gguf_writer *w = empty();
        gguf_writer_u32(w, "general.alignment", bad[i]);
        gguf_writer_tensor(w, "t", BLOCK_F32, 1, (int64_t[]){3}, numbers);
        refused(w, "byte 24", "general.alignment");
    }
    for (int i = 0; i < 3; i++) {
        gguf_writer *w = empty();
        if (i == 0)
            gguf_writer_int(w, "general.alignment", GGUF_I32, 32);
        else if (i == 1)
            gguf_writer_string(w, "general.alignment", "32");
        else
            gguf_writer_array(w, "general.alignment", GGUF_U32, (uint32_t[]){32}, 1);
        refused(w, "byte 24", "general.alignment is of type", "u32");
    }
    for (int i = 0; i < 2; i++) { /* laid out by another one than said */
        gguf_writer *w = empty();
        gguf_writer_u32(w, "general.alignment", i ? 32 : 64);
        gguf_writer_layout(w, i ? 64 : 32);
        gguf_writer_tensor(w, "t", BLOCK_F32, 1, (int64_t[]){3}, numbers);
        gguf_writer_tensor(w, "u", BLOCK_F32, 1, (int64_t[]){3}, numbers);
        refused(w, "tensor u", "offset");
    }
}

/* ---- G18 to G25: tensors ---- */

static void shapes_are_checked(void **state) {
    (void)state;
    static const struct {
        gguf_writer_entry e;
        const char *word;
    } bad[] = {{{.n_dims = 0}, "0 dimensions"},
               {{.n_dims = 5, .ne = {1, 1, 1, 1, 1}}, "5 dimensions"},
               {{.n_dims = UINT32_MAX, .ne = {1, 1, 1, 1, 1, 1, 1, 1}}, "4294967295 dimensions"},
               {{.n_dims = 4, .ne = {((uint64_t)1 << 63) - 64, 1, 1, 1}}, "t"},
               {{.n_dims = 2, .ne = {(uint64_t)1 << 32, (uint64_t)1 << 32}}, "overflows"},
               {{.n_dims = 3, .ne = {4, ((uint64_t)1 << 30) - 1, ((uint64_t)1 << 30) + 1}}, "overflows"},
               {{.n_dims = 3, .ne = {(uint64_t)1 << 31, (uint64_t)1 << 31, 4}}, "overflows"},
               {{.n_dims = 2, .ne = {4, 0}}, "dimension 1 is 0"},
               {{.n_dims = 2, .ne = {(uint64_t)-4, 4}}, "dimension 0 is -4"},
               {{.n_dims = 1, .ne = {33}, .type = BLOCK_Q4_0}, "no whole blocks of Q4_0"},
               {{.n_dims = 1, .ne = {64}, .type = BLOCK_Q6_K}, "no whole blocks of Q6_K"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        refused(with_entry(bad[i].e), "tensor t", bad[i].word);
}

static void tensor_types_are_checked(void **state) {
    (void)state;
    static const uint32_t types[] = {4, 5, 9, 10, 11, 15, 16, 24, 29, 31, 39, 255, UINT32_MAX};
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        char word[20];
        snprintf(word, sizeof(word), "type %u;", types[i]);
        refused(with_entry((gguf_writer_entry){.n_dims = 1, .ne = {256}, .type = types[i]}), "byte ", "tensor t", word,
                "Q4_K");
    }
}

static void tensor_names_are_checked(void **state) {
    (void)state;
    static const char long_name[] = "a234567890123456789012345678901234567890123456789012345678901234";
    static const struct {
        const char *name;
        size_t n;
        const char *word;
    } bad[] = {{long_name, 64, "64 bytes"}, {"a\0b", 3, "0x00"}, {"a\xc3\xa9", 3, "0xc3"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        refused(with_entry((gguf_writer_entry){.name = bad[i].name, .name_bytes = bad[i].n, .n_dims = 1, .ne = {1}}),
                "byte 24", "a tensor's name", bad[i].word);
    gguf_writer *w = empty();
    gguf_writer_entry_raw(w, &(gguf_writer_entry){.name = "", .n_dims = 1, .ne = {1}});
    refused(w, "byte 24", "0 bytes");
    w = empty();
    for (int i = 0; i < 3; i++)
        gguf_writer_tensor(w, i == 1 ? "other" : "same", BLOCK_F32, 1, (int64_t[]){1}, numbers);
    refused(w, "byte 97", "tensor same", "twice");
    refused(with_entry((gguf_writer_entry){.name = long_name, .name_bytes = 63, .n_dims = 1, .ne = {999}}), "a2345");
}

/* entry: two tensors of one float at these offsets over 64 bytes of data. */
static gguf_writer *two_at(uint64_t first, uint64_t second) {
    gguf_writer *w = empty();
    gguf_writer_entry_raw(w,
                          &(gguf_writer_entry){.name = "t", .name_bytes = 1, .n_dims = 1, .ne = {1}, .offset = first});
    gguf_writer_entry_raw(w,
                          &(gguf_writer_entry){.name = "u", .name_bytes = 1, .n_dims = 1, .ne = {1}, .offset = second});
    gguf_writer_pad(w, 64);
    return w;
}

static void offsets_are_checked(void **state) {
    (void)state;
    gguf *file;
    pleat_error error;
    memory_file f = of_writer(two_at(0, 32), NULL);
    assert_int_equal(open_metered(&f, &file, &error), PLEAT_OK);
    gguf_close(file);
    close(f.fd);
    static const uint64_t bad[] = {0, 4, 16, 31, 33, 64, 160, 159, UINT64_MAX - 31, UINT64_MAX, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        refused(two_at(0, bad[i]), "tensor u", "offset");
    refused(two_at(32, 0), "tensor t", "offset 32");
    /* one byte past the end */
    size_t n;
    gguf_writer *w = empty();
    gguf_writer_tensor(w, "t", BLOCK_F32, 1, (int64_t[]){8}, numbers);
    uint8_t *image = gguf_writer_image(w, &n, NULL);
    gguf_writer_close(w);
    refused_bytes(image, n - 1, "tensor t", "needs 32 bytes", "31 bytes of data");
    free(image);
}

static void sums_of_sizes_do_not_wrap(void **state) {
    (void)state;
    uint64_t ne = ((uint64_t)1 << 61) - 16; /* floats: 2^63 - 64 bytes */
    gguf_writer *w = empty();
    gguf_writer_entry_raw(w, &(gguf_writer_entry){.name = "t", .name_bytes = 1, .n_dims = 1, .ne = {ne}});
    gguf_writer_entry_raw(
        w, &(gguf_writer_entry){.name = "u", .name_bytes = 1, .n_dims = 1, .ne = {ne}, .offset = 4 * ne});
    gguf_writer_entry_raw(
        w, &(gguf_writer_entry){.name = "v", .name_bytes = 1, .n_dims = 1, .ne = {64}, .offset = 8 * ne});
    gguf_writer_pad(w, 64);
    refused(w, "tensor v", "overflows");
    w = with_entry((gguf_writer_entry){.n_dims = 1, .ne = {ne}});
    refused(w, "tensor t", "needs 9223372036854775744 bytes");
}

static void parts_of_a_split_file_are_refused(void **state) {
    (void)state;
    gguf_writer *w = sample(3);
    gguf_writer_int(w, "split.count", GGUF_U16, 3);
    refused(w, "split.count", "3 parts");
    w = sample(3);
    gguf_writer_string(w, "split.count", "3");
    refused(w, "split.count is of type string");
    w = sample(3);
    gguf_writer_int(w, "split.count", GGUF_U16, 1);
    memory_file f = of_writer(w, NULL);
    gguf *file;
    pleat_error error;
    assert_int_equal(open_metered(&f, &file, &error), PLEAT_OK);
    gguf_close(file);
    close(f.fd);
}

/* ---- G14: truncation, and damage ---- */

/* Everything that can be asked of an open file. */
static void ask_everything(const gguf *file) {
    char out[200];
    double sum = 0;
    for (int i = 0; i < gguf_n_keys(file); i++)
        gguf_value_text(file, i, out, sizeof(out));
    for (int i = 0; i < gguf_n_tensors(file); i++) {
        const gguf_tensor *t = gguf_tensor_at(file, i);
        for (size_t k = 0; k < t->bytes; k++)
            sum += t->data[k];
        int64_t n = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
        float *x = malloc((size_t)n * sizeof(*x));
        if (x)
            block_open(t->type, t->data, n, x);
        free(x);
    }
    assert_true(sum >= 0);
}

static void truncated_anywhere_it_is_refused_or_right(void **state) {
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        size_t header_bytes;
        int n_right = 0;
        memory_file f = of_writer(sample(version), &header_bytes);
        while (f.n-- > 0) {
            gguf *file;
            pleat_error error;
            assert_int_equal(ftruncate(f.fd, (off_t)f.n), 0);
            if (open_metered(&f, &file, &error)) {
                assert_true(strstr(error.text, ": byte "));
                continue;
            }
            n_right++;
            check_values(file);
            check_tensors(file);
            gguf_close(file);
        }
        assert_int_equal(n_right, 24); /* the padding after the last tensor of 8 bytes */
        close(f.fd);
    }
}

/* Seeded damage in the header: any answer but a crash, at most the margin of memory. */
static void damaged_anywhere_it_does_not_crash(void **state) {
    (void)state;
    size_t n, header_bytes;
    gguf_writer *w = sample(3);
    uint8_t *image = gguf_writer_image(w, &n, &header_bytes), *bad = malloc(n);
    gguf_writer_close(w);
    int n_refused = 0, n_rounds = env_all() ? 200000 : 6000;
    for (int round = 0; round < n_rounds; round++) {
        memcpy(bad, image, n);
        int n_changes = 1 + (int)(rng_u64(1, (uint64_t)round, 0) % 4);
        for (int i = 0; i < n_changes; i++) {
            uint64_t draw = rng_u64(1, (uint64_t)round, 1 + (uint64_t)i);
            static const uint8_t liked[] = {0, 1, 0x7f, 0x80, 0xff};
            bad[draw % header_bytes] = draw >> 60 < 8 ? (uint8_t)(draw >> 40) : liked[(draw >> 40) % 5];
        }
        memory_file f = in_memory(bad, n);
        gguf *file;
        pleat_error error;
        if (open_metered(&f, &file, &error)) {
            n_refused++;
        } else {
            ask_everything(file);
            gguf_close(file);
        }
        close(f.fd);
    }
    assert_true(n_refused > n_rounds / 4);
    free(image);
    free(bad);
}

/* ---- G32: what is no file ---- */

static void io_refused(const char *path, const char *word) {
    gguf *file = NULL;
    pleat_error error = {""};
    pleat_status status = gguf_open(path, &file, &error);
    assert_true(status == PLEAT_EIO && !file);
    if (!strstr(error.text, word))
        fail_msg("\"%s\" is not in: %s", word, error.text);
}

static void what_is_no_regular_file_is_refused(void **state) {
    (void)state;
    const char *path = env_temp("odd");
    char long_path[4200];
    unlink(path);
    io_refused(path, strerror(ENOENT));
    io_refused("/tmp", "not a regular file");
    io_refused("/dev/zero", "not a regular file");
    assert_int_equal(mkfifo(path, 0600), 0);
    io_refused(path, "not a regular file"); /* and does not hang */
    unlink(path);
    assert_int_equal(symlink(path, path), 0);
    io_refused(path, strerror(ELOOP));
    unlink(path);
    memset(long_path, 'x', sizeof(long_path));
    long_path[0] = '/';
    long_path[4097] = 0;
    io_refused(long_path, strerror(ENAMETOOLONG));
    io_refused("", strerror(ENOENT));
    if (geteuid() == 0) /* root reads everything */
        return;
    close(open(path, O_CREAT | O_WRONLY, 0));
    io_refused(path, strerror(EACCES));
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_2_and_3_are_read),
        cmocka_unit_test(another_alignment_is_followed),
        cmocka_unit_test(values_are_shown_in_words),
        cmocka_unit_test(a_value_of_another_type_is_refused),
        cmocka_unit_test(heads_are_checked),
        cmocka_unit_test(counts_are_checked_before_memory_is_taken),
        cmocka_unit_test(key_names_are_checked),
        cmocka_unit_test(value_types_are_checked),
        cmocka_unit_test(string_lengths_are_checked),
        cmocka_unit_test(arrays_are_checked),
        cmocka_unit_test(deep_arrays_do_not_recurse),
        cmocka_unit_test(alignments_are_checked),
        cmocka_unit_test(shapes_are_checked),
        cmocka_unit_test(tensor_types_are_checked),
        cmocka_unit_test(tensor_names_are_checked),
        cmocka_unit_test(offsets_are_checked),
        cmocka_unit_test(sums_of_sizes_do_not_wrap),
        cmocka_unit_test(parts_of_a_split_file_are_refused),
        cmocka_unit_test(truncated_anywhere_it_is_refused_or_right),
        cmocka_unit_test(damaged_anywhere_it_does_not_crash),
        cmocka_unit_test(what_is_no_regular_file_is_refused),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
