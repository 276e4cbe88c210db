/* Who has whatever allocator the loader gives it. */
#include <stdlib.h>
#include <string.h>

__attribute__((noinline)) void *user_allocates(size_t size) {
    void *block = malloc(size);
    __asm__ volatile("" : "+r"(block) : : "memory");
    return block;
}

__attribute__((noinline)) void user_frees(void *block) { free(block); }

/* Allocates, changes the size and frees; how often is up to the caller. */
int user_works(int rounds) {
    for (int n = 0; n < rounds; n++) {
        char *block = user_allocates(100 + n % 1000);
        if (!block) return 1;
        memset(block, n, 100);
        block = realloc(block, 2000);
        if (!block || block[99] != (char)n) return 2;
        user_frees(block);
    }
    return 0;
}
