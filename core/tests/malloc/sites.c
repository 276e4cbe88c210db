/* Fifty places that allocate known bytes, and what else of C's functions has a place of its own. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SITE(name) \
    __attribute__((noinline)) void *name(size_t size) { \
        void *block = malloc(size); \
        __asm__ volatile("" : "+r"(block) : : "memory"); \
        return block; \
    }
#define TEN(d) SITE(s##d##0) SITE(s##d##1) SITE(s##d##2) SITE(s##d##3) SITE(s##d##4) \
    SITE(s##d##5) SITE(s##d##6) SITE(s##d##7) SITE(s##d##8) SITE(s##d##9)
TEN(0) TEN(1) TEN(2) TEN(3) TEN(4)

#define ROW(d) s##d##0, s##d##1, s##d##2, s##d##3, s##d##4, s##d##5, s##d##6, s##d##7, s##d##8, s##d##9
static void *(*const sites[])(size_t) = {ROW(0), ROW(1), ROW(2), ROW(3), ROW(4)};

static void **kept[50];
static size_t lives[50];

/* Allocates `count` blocks at a site, of which `keep` stay. */
void allocate(int site, size_t size, size_t count, size_t keep) {
    kept[site] = calloc(keep + 1, sizeof(void *));
    lives[site] = keep;
    for (size_t n = 0; n < count; n++) {
        void *block = sites[site](size);
        if (!block) abort();
        if (n < keep) kept[site][n] = block;
        else free(block);
    }
}

/* Frees what stays of a site. */
void release(int site) {
    for (size_t n = 0; n < lives[site]; n++) free(kept[site][n]);
    free(kept[site]);
    lives[site] = 0;
}

/* By the C library's own calls. */
__attribute__((noinline)) void *by_strdup(size_t size) {
    static char text[1 << 20];
    memset(text, 'x', size - 1);
    text[size - 1] = 0;
    return strdup(text);
}

/* By a table of functions, as libraries have it whose allocator can be chosen. */
void *(*table_malloc)(size_t) = malloc;
void (*table_free)(void *) = free;
__attribute__((noinline)) void *by_table(size_t size) {
    void *block = table_malloc(size);
    __asm__ volatile("" : "+r"(block) : : "memory");
    return block;
}
void free_by_table(void *block) { table_free(block); }

/* What the slot for `malloc` holds. */
void *slot(void) { return (void *)malloc; }
