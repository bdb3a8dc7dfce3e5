/* vocab.h - inside text/: a checked vocabulary, and the parts of the tokenizers that work on it.
 *
 * Which file does what: vocab.c reads and checks the lists of a model file, special.c cuts a text at special tokens,
 * split.c cuts text into the words of a pre-tokenizer, merge.c joins symbols by priority, bpe.c and spm.c say which
 * symbols join, tokenizer.c puts them together. */
#ifndef TEXT_VOCAB_H
#define TEXT_VOCAB_H
#include "gguf/gguf.h"

/* ---- growing list of ids ---- */

typedef struct id_list {
    int32_t *ids; /* malloc'ed */
    int n, cap;
    bool failed; /* an allocation was refused; what was pushed since is lost */
} id_list;
void id_list_push(id_list *list, int32_t id);

/* ---- vocabulary ---- */

typedef enum vocab_type { /* the file's own numbers, tokenizer.ggml.token_type */
                          VOCAB_UNDEFINED,
                          VOCAB_NORMAL,
                          VOCAB_UNKNOWN,
                          VOCAB_CONTROL,
                          VOCAB_USER,
                          VOCAB_UNUSED,
                          VOCAB_BYTE,
                          VOCAB_TYPE_COUNT
} vocab_type;

enum {
    VOCAB_SILENT = 1, /* gives no bytes unless asked for special text, and is parsed from text only then */
    VOCAB_PARSED = 2, /* found in text before anything else: always, or with VOCAB_SILENT when special text is parsed */
    VOCAB_ENDS = 4,   /* ends an answer */
    VOCAB_RSTRIP = 8, /* swallows the white space after it */
};

typedef struct vocab {
    int n;
    bool spm;
    gguf_string *text; /* [n] in the file's mapping */
    float *score;      /* [n] SPM only, else NULL */
    uint8_t *type;     /* [n] vocab_type */
    uint8_t *flags;    /* [n] */
    uint32_t *slot;    /* [mask + 1] id + 1 by hash of the text, 0: free; linear probing */
    uint32_t mask;
    char *bytes;   /* decoded texts, back to back */
    size_t *start; /* [n + 1] in bytes */
    size_t max_text_bytes;
    int32_t byte_id[256]; /* the token of a byte alone; -1: none */
    int32_t bos, eos;     /* -1: none */
    bool add_bos, add_eos, add_space_prefix;
} vocab;

/* Reads and checks everything but the merges. On failure *v is empty. PLEAT_EINPUT names file, field, index and value.
 */
pleat_status vocab_open(const gguf *file, vocab *v, pleat_error *error);
void vocab_close(vocab *v);
/* Id of the token with this text, -1: none. */
int32_t vocab_find(const vocab *v, const char *text, size_t n);
/* The same for ordinary text: never a control or unknown token, so that no merge can make one. */
int32_t vocab_find_ordinary(const vocab *v, const char *text, size_t n);
/* Ordinary tokens may be made by merges. */
bool vocab_ordinary(const vocab *v, int32_t id);
uint64_t vocab_hash(const void *bytes, size_t n);
/* At most 40 bytes of a file's string made fit for a sentence; out holds 44 bytes; returns out. */
const char *vocab_shown(gguf_string s, char *out);
/* The visible character that byte-level vocabularies write for a byte (GPT-2): 1 or 2 bytes of UTF-8 into out. */
int vocab_byte_char(uint8_t byte, char *out);

/* ---- special tokens ---- */

typedef struct special_index special_index;
/* Index of the tokens that are found in text before all else. PLEAT_EMEMORY. */
pleat_status special_open(const vocab *v, special_index **out, pleat_error *error);
void special_close(special_index *index);

typedef struct special_piece {
    int32_t id; /* a special token; -1: text */
    int at, n;  /* bytes of the text it covers */
} special_piece;
/* Cuts text into special tokens and text between; *pieces is malloc'ed. false: no memory. */
bool special_cut(const special_index *index, const char *text, int n, bool parse, special_piece **pieces,
                 int *n_pieces);

/* ---- pre-tokenizer ---- */

typedef struct split split;
/* By the file's tokenizer.ggml.pre. PLEAT_EINPUT names an unknown one. */
pleat_status split_open(const gguf *file, split **out, pleat_error *error);
void split_close(split *s);
bool split_adds_bos(const split *s);    /* default where the file is silent */
bool split_whole_words(const split *s); /* a word that is a token is taken whole, without merges */

typedef bool (*split_word)(void *context, const char *word, int n);
/* Calls word for each word of text in order; its bytes are those that the model sees (invalid UTF-8 replaced). Stops
 * with false when a call says false, or when there is no memory. */
bool split_text(const split *s, const char *text, int n, split_word word, void *context);

/* ---- merging ---- */

typedef struct merge_symbol {
    int at, n; /* bytes of the text; n = 0: swallowed by its left neighbour */
    int prev, next;
    int32_t id; /* -1: not a token */
} merge_symbol;

typedef struct merge_entry {
    double key; /* smaller first; ties: smaller left first */
    int left, right, n_bytes;
    int32_t id;
} merge_entry;

/* A binary heap of entries, smallest first. */
typedef struct merge_heap {
    merge_entry *entry;
    int n, cap;
} merge_heap;
bool merge_heap_push(merge_heap *heap, merge_entry entry); /* false: no memory */
merge_entry merge_heap_pop(merge_heap *heap);              /* heap->n > 0 */

/* Scratch of one encoding, reused from word to word. */
typedef struct merge {
    merge_symbol *symbol;
    int n, cap;
    merge_heap heap;
} merge;
/* Appends a symbol; false: no memory. */
bool merge_add(merge *m, int at, int n, int32_t id);
/* Says whether two neighbours join: fills key and id. */
typedef bool (*merge_join)(const void *context, const merge_symbol *left, const merge_symbol *right, double *key,
                           int32_t *id);
/* Joins until nothing joins, always the smallest key first. false: no memory. */
bool merge_run(merge *m, merge_join join, const void *context);
void merge_free(merge *m);

/* ---- the two kinds ---- */

typedef struct bpe bpe;
/* The merges of the file; PLEAT_EINPUT names the merge that is bad. v must outlive it. */
pleat_status bpe_open(const gguf *file, const vocab *v, bpe **out, pleat_error *error);
void bpe_close(bpe *b);
bool bpe_encode(const bpe *b, const split *s, const char *text, int n, merge *scratch,
                id_list *out); /* false: no memory */
bool spm_encode(const vocab *v, const char *text, int n, bool space_prefix, merge *scratch, id_list *out);
#endif
