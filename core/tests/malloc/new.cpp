// C++ in all its ways of asking for memory.
#include <cstddef>
#include <cstdlib>
#include <new>

struct alignas(128) Wide { char bytes[256]; };

static void keep(void *block) { __asm__ volatile("" : : "r"(block) : "memory"); }

extern "C" __attribute__((noinline)) int new_plain(int count) {
    for (int n = 0; n < count; n++) { char *block = new char[3000]; keep(block); delete[] block; }
    return count;
}

extern "C" __attribute__((noinline)) int new_aligned(int count) {
    for (int n = 0; n < count; n++) {
        Wide *block = new Wide;
        if ((size_t)block % 128) abort();
        keep(block);
        delete block;
    }
    return count;
}

extern "C" __attribute__((noinline)) int new_nothrow(int count) {
    for (int n = 0; n < count; n++) {
        void *block = ::operator new(3000, std::nothrow);
        keep(block);
        ::operator delete(block, std::nothrow);
    }
    volatile size_t much = (size_t)1 << 62;
    return ::operator new(much, std::nothrow) == nullptr ? count : -1;
}

// An exception passes through whoever stands in between.
extern "C" int new_throws(void) {
    volatile size_t much = (size_t)1 << 62;
    try { keep(::operator new(much)); } catch (const std::bad_alloc &) { return 1; }
    return 0;
}
