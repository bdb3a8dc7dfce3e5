/* members.h - things with a name that somebody uses, in a list: found by name, made when they are missed, and freed by
 * the next who makes one once nobody uses them. A caller's struct begins with a member.
 *
 * Find, make and sweep under one lock. Who uses a member counts itself in n_users under that lock, and out of it by an
 * atomic subtraction alone, which is its last touch. */
#ifndef BASE_MEMBERS_H
#define BASE_MEMBERS_H
#include <stdatomic.h>
#include <stddef.h>

typedef struct member {
    struct member *next;
    atomic_int n_users;
    const char *name; /* behind the struct */
} member;

/* NULL: there is none. */
member *members_find(member *first, const char *name);
/* The same, made when it is missed: a struct of `bytes`, zeroed. NULL: no memory. */
member *members_find_or_make(member **first, const char *name, size_t bytes);
/* Frees those without users. */
void members_sweep(member **first);
#endif
