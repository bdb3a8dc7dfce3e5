/* page.c - the page at "/", put into the binary by the assembler (the path counts from the repository's root). */
#include "serve/inside.h"

__asm__(".section .rodata\n"
        "serve_page_begin: .incbin \"src/serve/page.html\"\n"
        "serve_page_end: .byte 0\n"
        ".previous\n");
extern const char serve_page_begin[], serve_page_end[];

void tell_page(server *s, http_exchange *x) {
    (void)s;
    http_set(x, "Content-Security-Policy",
             "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
             "base-uri 'none'; form-action 'none'");
    http_set(x, "X-Content-Type-Options", "nosniff");
    http_answer(x, 200, "text/html; charset=utf-8", serve_page_begin, (size_t)(serve_page_end - serve_page_begin));
}
